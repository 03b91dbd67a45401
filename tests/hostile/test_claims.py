"""A host that claims to run other hosts' domains: whoever writes its exporter's answers can say so of any domain."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import cast

import pytest

from hostile.test_mangled import GIB, HONEST, NOW, look
from virtpoise_balancer.errors import LibvirtSilent
from virtpoise_balancer.execute.copies import Copies, SeenTwice
from virtpoise_balancer.execute.facts import Presence
from virtpoise_balancer.execute.hosts import Hosts
from virtpoise_balancer.model import Host, Policy, UnsettledKind
from virtpoise_balancer.monitor.observe import Observation
from virtpoise_balancer.monitor.replies import Series
from virtpoise_balancer.plan import plan
from virtpoise_balancer.threads import SystemThreads, Thread

pytestmark = pytest.mark.hostile

MOST_THREADS = 4


def group(
    hosts: Sequence[str],
    domains: int,
    claims: Mapping[str, Sequence[str]],
    figures: Mapping[str, Mapping[str, float]] | None = None,
) -> Observation:
    """What is seen of hosts with some domains each. ``claims``: by host, what it lists as running beside its own.

    ``figures``: by host, what else it lists, with other figures than 1 for it; it counts them as inactive.
    """
    found: dict[str, list[Series]] = {name: [] for name in HONEST}
    for host in hosts:
        own = [f"{host}-{number}" for number in range(domains)]
        listed = [*own, *claims.get(host, ())]
        others = (figures or {}).get(host, {})
        counts = {"host_domains_active": float(len(listed)), "host_domains_inactive": float(len(others))}
        instance = {"instance": f"{host}:9807", "job": "virtpoise-exporter"}
        for name, answer in HONEST.items():
            for series in answer[:1] if name.startswith("host_") else ():
                samples = tuple((at, counts.get(name, of)) for at, of in series.samples)
                found[name].append(Series(instance, samples))
        for uuid, running in {**dict.fromkeys(listed, 1.0), **others}.items():
            values = {
                "domain_running": running,
                "domain_vcpus": 1.0,
                "domain_memory_bytes": GIB,
                "domain_cpu_cores": 0.01,
            }
            for name, value in values.items():
                found[name].append(Series({**instance, "uuid": uuid, "domain": uuid}, ((NOW, value),)))
    return look(found).observe(NOW)


def own(host: str, number: int) -> list[str]:
    return [f"{host}-{one}" for one in range(number)]


def unknown(hosts: Sequence[Host]) -> dict[str, str]:
    return {host.name: host.unknown.text for host in hosts if host.unknown}


def test_a_host_that_claims_many_domains_of_others_is_unknown_and_changes_no_others_plan() -> None:
    honest = group(["h1", "h2", "h3"], 30, {})
    claimed = group(["h1", "h2", "h3"], 30, {"h3": [*own("h1", 20), *own("h2", 15)]})
    assert unknown(claimed.snapshot.hosts) == {
        "h3": "its list of domains contradicts those of others: 35 of them run on h1, h2 as well"
    }
    assert claimed.duplicates == {}
    others = ("h1", "h2")
    for seen in (honest, claimed):
        assert [one.host for one in seen.snapshot.domains if one.host in others] == ["h1"] * 30 + ["h2"] * 30
    assert plan(claimed.snapshot, Policy()).overloaded == tuple(
        one for one in plan(honest.snapshot, Policy()).overloaded if one.host in others
    )


@pytest.mark.parametrize(
    ("claims", "doubted"),
    [
        ({"h3": own("h1", 10)}, []),  # they may be on their way
        ({"h3": own("h1", 11)}, ["h1", "h3"]),  # nothing shows which list is wrong
        ({"h3": [*own("h1", 11), *own("h2", 1)]}, ["h3"]),
        ({"h3": own("h1", 5), "h2": own("h1", 5)}, []),
        ({"h3": [*own("h1", 30), *own("h2", 30)], "h4": own("h2", 9)}, ["h3"]),
    ],
)
def test_who_contradicts_most_is_in_doubt(claims: Mapping[str, Sequence[str]], doubted: list[str]) -> None:
    assert sorted(unknown(group(["h1", "h2", "h3", "h4"], 30, claims).snapshot.hosts)) == doubted


@pytest.mark.parametrize("value", [2.0, 1.5, 0.5, -1.0])
def test_a_host_that_says_anything_but_yes_or_no_of_others_domains_is_unknown_and_takes_none_of_them(
    value: float,
) -> None:
    """Where a domain runs comes first in the list of its places, so a larger figure took it from its host."""
    seen = group(["h1", "h2", "h3"], 30, {}, {"h3": dict.fromkeys([*own("h1", 20), *own("h2", 20)], value)})
    assert unknown(seen.snapshot.hosts) == {
        "h3": f"its list of domains, where 1 is one that runs and 0 one that does not, cannot be right: {value:g}"
    }
    assert [one.host for one in seen.snapshot.domains] == ["h1"] * 30 + ["h2"] * 30


class Counted(SystemThreads):
    """How many threads it has started."""

    def __init__(self) -> None:
        self.started = 0

    def start(self, work: object, name: str, *, daemon: bool = True) -> Thread:
        self.started += 1
        return super().start(work, name, daemon=daemon)  # type: ignore[arg-type]


class Hanging:
    """Hosts; those in ``hang`` do not answer until ``go_on``, and then not in time."""

    def __init__(self, *hang: str) -> None:
        self.hang, self.go_on, self.met = hang, threading.Event(), threading.Event()
        self.asked: Counter[str] = Counter()
        self.at_once: Counter[str] = Counter()
        self.most_at_once = 0
        self._lock = threading.Lock()

    def presence(self, host: str, uuid: str) -> Presence:
        with self._lock:
            self.asked[host] += 1
            self.at_once[host] += 1
            self.most_at_once = max(self.most_at_once, self.at_once[host])
        try:
            if host in self.hang:
                self.met.set()
                self.go_on.wait(30)
                raise LibvirtSilent(f"{host}: no answer")
            return Presence.RUNNING if uuid.startswith(f"{host}-") else Presence.ABSENT
        finally:
            with self._lock:
                self.at_once[host] -= 1


class Claiming:
    """Hosts whose libvirt says that it runs the domains that begin with the host's name. ``says``: what those that lie
    say of any domain, or None where they do not answer.
    """

    def __init__(self, says: Presence | None, *liars: str) -> None:
        self.says, self.liars = says, liars

    def presence(self, host: str, uuid: str) -> Presence:
        if host not in self.liars:
            return Presence.RUNNING if uuid.startswith(f"{host}-") else Presence.ABSENT
        if self.says is None:
            raise LibvirtSilent(f"{host}: no answer")
        return self.says

    def describe(self, _host: str, _uuid: str) -> str:
        return "running, started here"


def kept_still(hosts: Claiming, claims: Mapping[str, Sequence[str]]) -> tuple[set[str], Sequence[str]]:
    """The hosts on which nothing is done, and the reasons. ``claims``: by the host that lies, those whose domain it
    claims.
    """
    copies = Copies(lambda: cast(Hosts, hosts))
    copies.keep_up(
        {
            f"{host}-{liar}": SeenTwice(f"of-{host}", tuple(sorted((liar, host))))
            for liar, others in claims.items()
            for host in others
        }
    )
    copies.wait(30)
    found = copies.unsettled()
    assert len(found) == sum(map(len, claims.values())), "each is said, and counts for the alert"
    return {host for one in found for host in one.hosts}, [one.text for one in found]


@pytest.mark.parametrize("says", [Presence.RUNNING, Presence.PAUSED, None])
def test_a_host_whose_libvirt_confirms_its_claims_keeps_two_others_still_at_most(says: Presence | None) -> None:
    victims = [f"h{number}" for number in range(10)]
    still, texts = kept_still(Claiming(says, "evil"), {"evil": victims})
    assert still == {"evil"}
    assert all(text.endswith(". evil contradicts more than 2 hosts, which go on") for text in texts)
    assert kept_still(Claiming(says, "evil"), {"evil": victims[:2]})[0] == {"evil", "h0", "h1"}
    assert kept_still(Claiming(says, "evil", "worse"), {"evil": victims, "worse": victims})[0] == {"evil", "worse"}


def test_a_host_that_does_not_answer_for_its_own_domain_is_kept_still_with_the_one_that_claims_it() -> None:
    still, _ = kept_still(Claiming(None, "evil", "h0"), {"evil": ["h0", "h1", "h2", "h3"]})
    assert still == {"evil", "h0"}


def test_five_thousand_claims_take_few_threads_and_hold_up_no_other_question() -> None:
    """Each took a thread, and a process with libvirt and ssh."""
    hosts, threads = Hanging("evil"), Counted()
    copies = Copies(lambda: cast(Hosts, hosts), threads=threads)
    seen = {f"h{n % 50}-{n}": SeenTwice(f"d{n}", ("evil", f"h{n % 50}")) for n in range(5000)}
    seen["a-1"] = SeenTwice("honest", ("a", "b"))
    try:
        copies.keep_up(seen)
        assert hosts.met.wait(30)
        copies.keep_up(seen)
        until = time.monotonic() + 30
        while any(one.uuid == "a-1" for one in copies.unsettled()):  # answered, though the other one hangs
            assert not hosts.go_on.wait(0.01)
            assert time.monotonic() < until
        assert hosts.most_at_once == 1
    finally:
        hosts.go_on.set()
    copies.wait(30)
    assert threads.started <= 2 * MOST_THREADS
    assert hosts.asked["evil"] == 3 * 50, "three questions of each turn, which has the domains of one other host"
    assert {one.kind for one in copies.unsettled()} == {UnsettledKind.UNKNOWN}
    assert len(copies.unsettled()) == 5000
