"""Hosts are asked by a bounded number of threads, also after a moment in which the system has no thread left."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import cast

import pytest

from builders import FakeClock
from virtpoise_balancer.execute import reach as reach_module
from virtpoise_balancer.execute.copies import Copies, SeenTwice
from virtpoise_balancer.execute.facts import HostFacts, Presence
from virtpoise_balancer.execute.hosts import Hosts
from virtpoise_balancer.execute.inventory import Inventory
from virtpoise_balancer.execute.lanes import Lanes
from virtpoise_balancer.execute.reach import Reach
from virtpoise_balancer.execute.workers import Workers
from virtpoise_balancer.model import Move, PredictedLoads, Prediction
from virtpoise_balancer.threads import SystemThreads, Thread

HOSTS = [f"h{n}" for n in range(40)]
LOADS = PredictedLoads(source=Prediction.exact(0.5), destination=Prediction.exact(0.5))


class Scarce(SystemThreads):
    """Refuses threads while there are ``none``; all others do their work at once."""

    none = True

    def start(self, work: Callable[[], object], name: str, *, daemon: bool = True) -> Thread:
        if self.none:
            raise RuntimeError("can't start new thread")
        work()
        return cast(Thread, None)


class Answering:
    """In the place of the hosts."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def presence(self, host: str, _uuid: str) -> Presence:
        self.asked.append(host)
        return Presence.ABSENT

    def facts(self, host: str) -> HostFacts:
        self.asked.append(host)
        return HostFacts(
            libvirt_version=9, hypervisor_version=7, cpu=None, devices=None, networks=frozenset(), domains=()
        )


def test_a_host_that_hangs_keeps_no_other_one_waiting() -> None:
    hangs, go_on, other = threading.Event(), threading.Event(), threading.Event()

    def ask(host: str) -> int:
        (hangs if host == "hung" else other).set()
        return int(host == "hung" and go_on.wait(30))

    reach = Reach(ask)
    reach.keep_up(["hung"])
    assert hangs.wait(10)
    reach.keep_up(["hung", "other"])
    assert other.wait(10)
    go_on.set()


def test_all_hosts_are_asked_once_there_are_threads_again() -> None:
    threads, asked = Scarce(), list[str]()

    def ask(host: str) -> int:
        asked.append(host)
        return 1

    reach = Reach(ask, threads=threads)
    for _ in range(3):
        reach.keep_up(HOSTS)
    assert reach.answers() == {}
    reach.ask(["h1"])
    threads.none = False
    reach.keep_up(())
    assert sorted(asked) == sorted(HOSTS), "each once"
    assert reach.answers().keys() == set(HOSTS)


def test_nobody_waits_for_ever_for_a_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach_module, "_MOST_WAIT_SECONDS", 0.05)
    go_on = threading.Event()

    def ask(_host: str) -> int:
        assert go_on.wait(5)
        return 1

    reach = Reach(ask)
    began = time.monotonic()
    reach.ask(["h1", "h2"])
    assert time.monotonic() - began < 4
    assert reach.answers() == {}
    go_on.set()


def test_copies_are_looked_for_once_there_are_threads_again() -> None:
    threads, hosts = Scarce(), Answering()
    copies = Copies(lambda: cast(Hosts, hosts), threads=threads)
    seen = {f"u{n}": SeenTwice("a", (f"h{n}", f"g{n}")) for n in range(8)}
    for _ in range(5):
        copies.keep_up(seen)
    assert len(copies.unsettled()) == 8
    threads.none = False
    copies.keep_up(seen)
    assert copies.unsettled() == ()


def test_hosts_are_looked_at_once_there_are_threads_again() -> None:
    threads, hosts = Scarce(), Answering()
    inventory = Inventory(lambda: cast(Hosts, hosts), clock=FakeClock(), threads=threads)
    move = Move(domain="a", uuid="a", source="h1", destination="h2", predicted=LOADS, wave=0)
    for _ in range(5):
        inventory.keep_up(dict.fromkeys(HOSTS, ()))
        inventory.ask([move], skip=(), acts=True)
        inventory.look_again(["h1"])
    assert hosts.asked == []
    threads.none = False
    inventory.keep_up({})
    assert sorted(hosts.asked) == sorted(HOSTS)


def test_work_that_fails_costs_no_lane() -> None:
    left = [1, 0, 2, 0, 3]
    done = []

    def take() -> Callable[[], object] | None:
        if not left:
            return None
        one = left.pop(0)
        return lambda: done.append(6 // one)

    threads = Scarce()
    threads.none = False
    lanes = Lanes(take, most=1, name="count", threads=threads)
    assert lanes.begin(5)
    assert done == [6, 3, 2]
    left.append(6)
    assert lanes.begin(1)
    assert done == [6, 3, 2, 1]


def test_a_worker_is_kept_though_no_thread_can_end_it_later(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with Workers() as workers:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Timer, "start", refuse)
            with workers.lent("test:///default"):
                pass
            assert workers._tidying is None
        with workers.lent("test:///default"):
            pass
        assert workers._tidying is not None
