"""A group whose guests lie in static huge pages, from a real Prometheus to the plan.

Hosts of 134 GB with a pool of 120 GB. Of the rest 9.4 GB are available, so all but 7 % of the whole memory is in use or
in the pool. What the eight guests of h1 hold besides their pages comes to 0.3 % of it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from builders import where
from filled_prometheus import filled_prometheus
from virtpoise_balancer.analyse.reserve import with_reserve
from virtpoise_balancer.config import parse_config
from virtpoise_balancer.model import Policy, Reason, Reserve, Snapshot
from virtpoise_balancer.monitor.client import PrometheusClient
from virtpoise_balancer.plan import plan
from virtpoise_balancer.service.wiring import make_observer

END = float((int(time.time()) - 6 * 3600) // 10 * 10)  # so long ago that it lies in a block of its own
SCRAPES = [END - 10 * back for back in range(90, -1, -1)]
HOT_FROM = END - 300
CALM, HOT = 0.3, 0.95
CPUS, GUESTS = 32, 8
GB = 10**9
PAGE = 2 << 20
MEMORY, POOL, AVAILABLE, GUEST = 134 * GB, 120 * GB // PAGE * PAGE, int(9.4 * GB), 15 * GB // PAGE * PAGE
RESIDENT = 50 * 10**6
FREE = {"h1": 0, "h2": 2 * GUEST, "h3": GUEST - PAGE}
RACKS = {"h1": "a", "h2": "b", "h3": "b"}


def used(at: float) -> float:
    """The seconds that a CPU of h1 was busy since the first scrape."""
    calm, hot = min(at, HOT_FROM) - SCRAPES[0], max(at - HOT_FROM, 0.0)
    return CALM * calm + HOT * hot


def samples(at: float) -> Iterator[tuple[str, str, float]]:
    """Name, labels and value of all that the three exporters show at a moment."""
    for name in FREE:
        host = f'job="virtpoise-exporter",instance="{name}:9807",rack="{RACKS[name]}"'
        passed = at - SCRAPES[0]
        busy = CPUS * used(at) if name == "h1" else CPUS * 0.1 * passed
        yield "virtpoise_host_cpus", host, CPUS
        yield "virtpoise_libvirt_up", host, 1
        yield "virtpoise_domains", f'{host},state="active"', GUESTS if name == "h1" else 0
        yield "virtpoise_domains", f'{host},state="inactive"', 0
        yield "virtpoise_host_memory_total_bytes", host, MEMORY
        yield "virtpoise_host_memory_hugepages_bytes", host, POOL
        yield "virtpoise_host_memory_available_bytes", host, AVAILABLE
        yield "virtpoise_host_hugepages_free", f'{host},size="{PAGE}",node="0"', FREE[name] // PAGE
        yield "virtpoise_host_cpu_seconds_total", f'{host},mode="user"', busy
        yield "virtpoise_host_cpu_seconds_total", f'{host},mode="idle"', CPUS * passed - busy
        for number in range(GUESTS if name == "h1" else 0):
            guest = f'{host},domain="vm{number}",uuid="u{number}"'
            yield "virtpoise_domain_running", guest, 1
            yield "virtpoise_domain_vcpus", guest, CPUS // GUESTS
            yield "virtpoise_domain_memory_bytes", guest, GUEST
            yield "virtpoise_domain_memory_maximum_bytes", guest, GUEST
            yield "virtpoise_domain_hugepages_bytes", f'{guest},size="{PAGE}"', GUEST
            yield "virtpoise_domain_memory_resident_bytes", guest, RESIDENT
            yield "virtpoise_domain_cpu_seconds_total", guest, CPUS // GUESTS * used(at)
            yield "virtpoise_domain_cpu_delay_seconds_total", guest, 0


def exposition() -> str:
    by_name: dict[str, dict[str, list[str]]] = {}
    for at in SCRAPES:
        for name, labels, value in samples(at):
            series = by_name.setdefault(name, {}).setdefault(labels, [])
            series.append(f"{name}{{{labels}}} {value} {at}")
    lines = []
    for name, of_it in by_name.items():
        lines.append(f"# TYPE {name.removesuffix('_total')} {'counter' if name.endswith('_total') else 'gauge'}")
        lines += [line for series in of_it.values() for line in series]
    return "\n".join([*lines, "# EOF\n"])


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with filled_prometheus(exposition(), tmp_path_factory.mktemp("prometheus")) as address:
        yield address


class At(PrometheusClient):
    """A Prometheus whose clock stands at a moment."""

    moment = END

    def time(self) -> float:
        return self.moment


def seen(url: str, at: float) -> Snapshot:
    observer = make_observer(parse_config(f"prometheus: {{url: '{url}'}}", "x"))
    client = At(url=observer.client.url, timeout_seconds=20)
    client.moment = at
    return replace(observer, client=client).observe(at).snapshot


def test_a_healthy_host_with_a_pool_is_not_overloaded(url: str) -> None:
    snapshot = seen(url, HOT_FROM - 20)
    source = snapshot.hosts[0]
    assert pytest.approx(0.93, abs=0.001) == 1 - AVAILABLE / MEMORY  # what it was read as
    assert source.memory_ratio == pytest.approx(1 - AVAILABLE / (MEMORY - POOL))
    assert source.memory_ratios[-3:] == pytest.approx([source.memory_ratio] * 3)
    made = plan(snapshot, Policy())
    assert (made.overloaded, made.moves, made.solved) == ((), (), True)


def test_even_where_ordinary_memory_is_short_its_guests_are_not_evacuated_for_nothing(url: str) -> None:
    """What the host keeps for itself brings it to 93 %: then each guest would take 0.4 points off it."""
    policy = Policy(reserve=(Reserve(memory_bytes=int(8.4 * GB), hosts=("rack=a",)),))
    snapshot = with_reserve(seen(url, HOT_FROM - 20), policy)
    assert [round(host.memory_ratio, 2) for host in snapshot.hosts] == [0.93, 0.33, 0.33]
    made = plan(snapshot, policy)
    assert [one.resource for one in made.overloaded] == ["memory"]
    assert (made.moves, made.solved) == ((), False)
    assert {one.reason for one in made.refusals if one.domain} == {Reason.LEAST_GAIN}


def test_a_cpu_overload_of_such_a_group_is_relieved_where_pages_are_free(url: str) -> None:
    snapshot = seen(url, END)
    made = plan(snapshot, Policy())
    assert [(one.host, one.resource) for one in made.overloaded] == [("h1", "cpu")]
    assert made.solved
    assert set(where(made).values()) == {"h2"}
    assert len(made.moves) == 2
