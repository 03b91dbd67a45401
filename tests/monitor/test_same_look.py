"""On random fleets in a real Prometheus, all ways to look give the same: at the whole group or some hosts, in one
request or many, at all groups or each.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace

import pytest

from filled_prometheus import filled_prometheus
from virtpoise_balancer.analyse.drains import DrainOrder, with_drains
from virtpoise_balancer.analyse.habits import readings
from virtpoise_balancer.config import parse_config
from virtpoise_balancer.model import Policy, Trigger
from virtpoise_balancer.monitor.client import PrometheusClient, QueryAnswer
from virtpoise_balancer.monitor.observe import HostWindow, Observer
from virtpoise_balancer.monitor.queries import BY_UPLINK, OF_THE_PAST, QUERIES, SATURATED_LATELY, render
from virtpoise_balancer.monitor.replies import Series
from virtpoise_balancer.plan import plan
from virtpoise_balancer.service.wiring import make_observer

END = float((int(time.time()) - 6 * 3600) // 10 * 10)  # so long ago that it lies in a block of its own
HOSTS, SCRAPES = 6, 95
CLUSTERS = ("blue", "red")
MOMENTS = (END - 50, END)


class AtTheEnd(PrometheusClient):
    """A Prometheus whose clock stands where it is asked about."""

    now = END

    def time(self) -> float:
        return self.now


class OneByOne(AtTheEnd):
    """Asks each query by itself, and reads the plain JSON of the reply."""

    def instant_each(self, queries: Mapping[str, str], at: float) -> dict[str, QueryAnswer]:
        return {name: self._plain("query", {"query": query, "time": str(at)}) for name, query in queries.items()}

    def range_each(
        self, queries: Mapping[str, str], start: float, end: float, step_seconds: float
    ) -> dict[str, QueryAnswer]:
        times = {"start": str(start), "end": str(end), "step": str(step_seconds)}
        return {name: self._plain("query_range", {"query": query, **times}) for name, query in queries.items()}

    def instant(self, query: str, at: float) -> QueryAnswer:
        return self.instant_each({"": query}, at)[""]

    def range(self, query: str, start: float, end: float, step_seconds: float) -> QueryAnswer:
        return self.range_each({"": query}, start, end, step_seconds)[""]

    def _plain(self, path: str, form: dict[str, str]) -> QueryAnswer:
        reply = json.loads(self._http.exchange("POST", f"/api/v1/{path}", 10, form).content)
        found = []
        for one in reply["data"]["result"]:
            values = [(at, float(text)) for at, text in one.get("values") or [one["value"]]]
            samples = tuple((at, value) for at, value in values if abs(value) < float("inf"))
            found += [Series(one["metric"], samples)] if samples else []
        return QueryAnswer(tuple(found))


def exposition(seed: int) -> str:
    """Hosts of all kinds: saturated for a while, without some metric, scraped with gaps; with domains of all states."""
    rng = random.Random(seed)
    lines: dict[str, list[str]] = {}

    def add(name: str, kind: str, labels: Mapping[str, str], samples: list[tuple[float, float]]) -> None:
        family = f"virtpoise_{name}"
        of_family = lines.setdefault(family, [f"# TYPE {family} {kind}"])
        text = ",".join(f'{label}="{value}"' for label, value in labels.items())
        suffix = "_total" if kind == "counter" else ""
        of_family += [f"{family}{suffix}{{{text}}} {value!r} {at:.3f}" for at, value in samples]

    for number in range(HOSTS):
        target = {"job": "virtpoise-exporter", "instance": rng.choice((f"h{number}:9807", f"h{number}"))}
        target["cluster"] = CLUSTERS[number % len(CLUSTERS)]
        offset = rng.uniform(0, 5)
        gap = rng.choice((range(0), range(30, 36), range(60, 63)))
        times = [END - 10 * back - offset for back in range(SCRAPES - 1, -1, -1) if back not in gap]
        hot = rng.choice((range(0), range(20, 50), range(SCRAPES)))
        load = [rng.uniform(0.91, 0.99) if place in hot else rng.uniform(0.1, 0.7) for place in range(len(times))]

        def counter(rates: list[float], times: list[float] = times) -> list[tuple[float, float]]:
            total, found = 1000.0, []
            for place, at in enumerate(times):
                total += rates[place] * (at - times[place - 1]) if place else 0.0
                found.append((at, total))
            return found

        def gauge(value: float, times: list[float] = times) -> list[tuple[float, float]]:
            return [(at, value) for at in times]

        add("host_cpus", "gauge", target, gauge(8))
        add("host_memory_total_bytes", "gauge", target, gauge(64e9))
        add("host_memory_available_bytes", "gauge", target, gauge(rng.uniform(1e9, 60e9)))
        add("libvirt_up", "gauge", target, gauge(1))
        for mode, share in (("user", load), ("idle", [1 - one for one in load])):
            add("host_cpu_seconds", "counter", {**target, "mode": mode}, counter([8 * one for one in share]))
        uplink = {**target, "device": "eth0"}
        if rng.random() < 0.8:
            add("host_network_speed_bytes", "gauge", uplink, gauge(1.25e9))
            for way in ("receive", "transmit"):
                add(f"host_network_{way}_bytes", "counter", uplink, counter([rng.uniform(0, 1e8)] * len(times)))
        count = rng.randrange(6)
        for state in ("active", "inactive"):
            add("domains", "gauge", {**target, "state": state}, gauge(count if state == "active" else 1))
        for place in range(count + 1):
            own = {**target, "domain": f"vm{number}-{place}", "uuid": f"{seed}-{number}-{place}"}
            add("domain_running", "gauge", own, gauge(float(place < count)))
            add("domain_vcpus", "gauge", own, gauge(4))
            add("domain_memory_bytes", "gauge", own, gauge(4e9))
            if place == count:
                continue
            cores = [one * 8 / count * rng.uniform(0.5, 1) for one in load]
            add("domain_cpu_seconds", "counter", own, counter(cores))
            add("domain_cpu_delay_seconds", "counter", own, counter([one / 10 for one in cores]))
            if rng.random() < 0.3:
                add("domain_placement", "gauge", {**own, "rule": "apart", "value": "db"}, gauge(1))
            nic = {**own, "device": "vnet0", "uplink": "eth0"}
            for way in ("receive", "transmit"):
                add(f"domain_network_{way}_bytes", "counter", nic, counter([rng.uniform(0, 1e7)] * len(times)))
    return "\n".join([*(line for family in lines.values() for line in family), "# EOF\n"])


@pytest.fixture(scope="module", params=[1, 2])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with filled_prometheus(exposition(request.param), tmp_path_factory.mktemp("prometheus")) as address:
        yield address


def observer(url: str, kind: type[AtTheEnd], now: float) -> Observer:
    client = kind(url=url, timeout_seconds=30)
    client.now = now
    return replace(make_observer(parse_config(f"prometheus: {{url: '{url}'}}", "x")), client=client)


@pytest.mark.parametrize("now", MOMENTS, ids=("before the end", "at the end"))
def test_a_look_is_what_its_queries_give_when_each_is_asked_alone(url: str, now: float) -> None:
    seen = observer(url, AtTheEnd, now).observe(now)
    assert seen == observer(url, OneByOne, now).observe(now)
    assert sum(host.known for host in seen.snapshot.hosts) >= HOSTS // 2
    histories = [domain.cpu_cores_unsaturated for domain in seen.snapshot.domains]
    assert any(one is not None for one in histories)
    assert any(one is None for one in histories)


@pytest.mark.parametrize("now", MOMENTS, ids=("before the end", "at the end"))
def test_what_is_made_of_several_answers_is_what_prometheus_makes_of_one_query(url: str, now: float) -> None:
    """The parts of the uplinks, and the means over the recent past on hosts that were saturated lately or not."""
    made = observer(url, AtTheEnd, now)
    plain = replace(made, queries={name: QUERIES[name] for name in (*OF_THE_PAST, *BY_UPLINK.values())})

    def figures(of: Observer) -> list[tuple[float | None, ...]]:
        return [
            (one.cpu_cores_unsaturated, one.cpu_delay_cores_unsaturated, one.rx_ratio, one.tx_ratio)
            for one in of.observe(now).snapshot.domains
        ]

    found, wanted = figures(made), figures(plain)
    assert found == [tuple(None if one is None else pytest.approx(one) for one in row) for row in wanted]
    assert any(row[2] > 0 for row in found if row[2] is not None)
    assert len(plain.client.instant(render(SATURATED_LATELY, made.ranges, ""), now).series) in range(1, HOSTS)


def test_an_observer_that_remembers_shows_what_a_new_one_shows(url: str) -> None:
    """In each look, also after some were left out. Two of them fall in one step of the recent past."""
    client = AtTheEnd(url=url, timeout_seconds=30)
    looking = replace(observer(url, AtTheEnd, END), client=client)
    gaps = (730, 700, 670, 660, 650, 640, 630, 620, 610, 600, 590, 580, 570, 370, 360, 350, 340, 330, 320, 310, 300)
    for now in (END - back for back in (*gaps, 40, 30, 20, 10, 0)):
        client.now = now
        assert looking.observe(now) == observer(url, AtTheEnd, now).observe(now)


def test_a_look_after_another_asks_for_the_newest_samples_alone(url: str) -> None:
    asked: list[float] = []

    class Noting(AtTheEnd):
        def range(self, query: str, start: float, end: float, step_seconds: float) -> QueryAnswer:
            asked.append((end - start) / step_seconds + 1)
            return super().range(query, start, end, step_seconds)

    later = END if END / 10 % 30 else END - 10  # once in 30 steps all are asked for
    client = Noting(url=url, timeout_seconds=30)
    looking = replace(observer(url, Noting, END), client=client)
    for now in (later - 10, later):
        client.now = now
        looking.observe(now)
    assert set(asked[:4]) == {30}
    assert set(asked[4:]) == {4}


@pytest.mark.parametrize("now", MOMENTS, ids=("before the end", "at the end"))
def test_a_look_at_two_hosts_shows_what_the_whole_look_shows_of_them(url: str, now: float) -> None:
    whole = observer(url, AtTheEnd, now).observe(now).snapshot
    for pair in ({"h0", "h1"}, {"h2", "h5"}, {"h3", "h9"}):
        some = observer(url, AtTheEnd, now).observe_hosts(pair, now).snapshot
        assert some.hosts == tuple(host for host in whole.hosts if host.name in pair)
        assert some.domains == tuple(domain for domain in whole.domains if domain.host in pair)


def test_loads_of_many_hosts_are_those_of_each_alone(url: str) -> None:
    wanted = {HostWindow(f"h{number}", END - 300 - 7 * number, END - 240 - 3 * number) for number in range(HOSTS)}
    watched = observer(url, AtTheEnd, END)
    together = watched.loads(wanted).samples
    assert together == {one: watched.loads([one]).samples[one] for one in wanted}
    assert max(len(samples) for samples in together.values()) >= 6


def of_group(url: str, name: str) -> Observer:
    groups = "{" + ", ".join(f"{one}: {{matchers: 'cluster=\"{one}\"'}}" for one in CLUSTERS) + "}"
    own = parse_config(f"prometheus: {{url: '{url}'}}\ngroups: {groups}", "x").of_group(name)
    return replace(make_observer(own), client=AtTheEnd(url=url, timeout_seconds=30))


def test_the_looks_at_two_groups_are_the_whole_look_in_two(url: str) -> None:
    """Each query has the group's matchers in each of its selectors, or a domain would have what is another's."""
    whole = observer(url, AtTheEnd, END).observe(END).snapshot
    for place, name in enumerate(CLUSTERS):
        looking = of_group(url, name)
        own, names = looking.observe(END).snapshot, {f"h{number}" for number in range(place, HOSTS, len(CLUSTERS))}
        assert own.hosts == tuple(host for host in whole.hosts if host.name in names)
        assert own.domains == tuple(domain for domain in whole.domains if domain.host in names)
        assert looking.members(END) == names
        assert looking.observe_hosts({"h0", "h1"}, END).snapshot.hosts == tuple(
            host for host in own.hosts if host.name in ("h0", "h1")
        )


def test_nothing_is_planned_from_one_group_to_another(url: str) -> None:
    """Not even off a host that is to be empty, while the other group's hosts have room."""
    roomy = Policy(cpu=Trigger(threshold=1.0, consecutive=30, recovery=1.0))
    moves = 0
    for place, name in enumerate(CLUSTERS):
        names = {f"h{number}" for number in range(place, HOSTS, len(CLUSTERS))}
        seen = of_group(url, name).observe(END).snapshot
        for drained in names:
            orders = {drained: DrainOrder(host=drained, draining=True, at=END)}
            for move in plan(with_drains(seen, orders), roomy).moves:
                assert {move.source, move.destination} <= names
                moves += 1
    assert moves


def test_the_past_has_what_looks_saw_then(url: str) -> None:
    """So a balancer that starts knows what one that has run all the time knows."""
    looking = observer(url, AtTheEnd, END)
    compared = 0
    for at, read in looking.past(looking.observe(END).snapshot, END - 300):
        then = readings(observer(url, AtTheEnd, at).observe(at).snapshot)
        known = dict(zip(then.uuids, then.cores.tolist(), strict=True))
        both = [
            (known[uuid], cores) for uuid, cores in zip(read.uuids, read.cores.tolist(), strict=True) if uuid in known
        ]
        assert [cores for _, cores in both] == pytest.approx([cores for cores, _ in both])
        compared += len(both)
    assert compared > 30
