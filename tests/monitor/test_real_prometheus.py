"""Who is a host, on a real Prometheus that also has an application of another job and a target with a hostile label."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from filled_prometheus import filled_prometheus
from virtpoise_balancer.config import Config, parse_config
from virtpoise_balancer.monitor.client import PrometheusClient
from virtpoise_balancer.monitor.targets import TargetRefusal
from virtpoise_balancer.service.wiring import make_observer

END = float((int(time.time()) - 6 * 3600) // 10 * 10)  # so long ago that it lies in a block of its own
SCRAPES = [END - 10 * back for back in range(90, -1, -1)]
HOSTILE = "x/system?command=/prog&a=:1"
TARGETS = (
    ("virtpoise-exporter", "h1:9807"),
    ("virtpoise-exporter", "[fe80::1%eth0]:9807"),
    ("virtpoise-exporter", HOSTILE),
    ("shop", "shop:8080"),
)
VALUES = {"virtpoise_host_cpus": 8, "virtpoise_libvirt_up": 1}


class AtTheEnd(PrometheusClient):
    """A Prometheus whose clock stands at the end of what it holds."""

    def time(self) -> float:
        return END


def exposition() -> str:
    lines = []
    for name, kind in (
        ("virtpoise_host_cpus", "gauge"),
        ("virtpoise_host_memory_total_bytes", "gauge"),
        ("virtpoise_host_memory_available_bytes", "gauge"),
        ("virtpoise_libvirt_up", "gauge"),
        ("virtpoise_domains", "gauge"),
        ("virtpoise_host_cpu_seconds", "counter"),
    ):
        lines.append(f"# TYPE {name} {kind}")
        for job, instance in TARGETS:
            labels = f'job="{job}",instance="{instance}"'
            for at in SCRAPES:
                if name == "virtpoise_domains":
                    lines += [f'{name}{{{labels},state="{state}"}} 0 {at}' for state in ("active", "inactive")]
                elif kind == "gauge":
                    lines.append(f"{name}{{{labels}}} {VALUES.get(name, 1e9)} {at}")
                else:
                    done = (at - SCRAPES[0]) * 4  # half of the eight CPUs
                    lines += [f'{name}_total{{{labels},mode="{mode}"}} {done} {at}' for mode in ("user", "idle")]
    return "\n".join([*lines, "# EOF\n"])


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with filled_prometheus(exposition(), tmp_path_factory.mktemp("prometheus")) as address:
        yield address


def seen(config: Config) -> tuple[list[str], dict[TargetRefusal, int]]:
    """The known hosts, and how many targets were refused."""
    observer = make_observer(config)
    found = replace(observer, client=AtTheEnd(url=observer.client.url, timeout_seconds=5)).observe(END)
    return [host.name for host in found.snapshot.hosts if host.known], dict(found.refused.counts)


def test_an_application_of_another_job_and_a_hostile_label_are_no_hosts(url: str) -> None:
    assert seen(parse_config(f"prometheus: {{url: '{url}'}}", "x")) == (
        ["fe80::1%eth0", "h1"],
        {TargetRefusal.NOT_A_HOST: 1},
    )


def test_matchers_and_pattern_say_which_targets_are_hosts(url: str) -> None:
    any_job = f"prometheus: {{url: '{url}', matchers: ''}}\n"
    assert seen(parse_config(any_job, "x")) == (["fe80::1%eth0", "h1", "shop"], {TargetRefusal.NOT_A_HOST: 1})
    refused = {TargetRefusal.NOT_A_HOST: 1, TargetRefusal.NOT_ADMITTED: 1}
    assert seen(parse_config(f"{any_job}libvirt: {{pattern: ['h*', 'fe80:*']}}", "x")) == (
        ["fe80::1%eth0", "h1"],
        refused,
    )
    two = f"prometheus: {{url: '{url}', matchers: 'job=~\"shop|x\", instance!~`h.+`'}}"
    assert seen(parse_config(two, "x")) == (["shop"], {})
