"""Which hosts answer the balancer: asked one question at a time, known to the next plan."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from builders import domain, group, host
from virtpoise_balancer.analyse.silence import Silence, with_silence
from virtpoise_balancer.errors import LibvirtError
from virtpoise_balancer.execute import reach as reach_module
from virtpoise_balancer.execute.reach import Reach
from virtpoise_balancer.model import HostState, Policy, Reason, UnknownKind
from virtpoise_balancer.plan import plan
from virtpoise_balancer.threads import SystemThreads, Thread

PATIENCE_SECONDS = 5.0


@dataclass
class Libvirt:
    """In the place of the hosts' daemons: a host that hangs answers once it is let go."""

    refused: dict[str, str] = field(default_factory=dict)
    hanging: dict[str, threading.Event] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    domains: int = 3

    def active_domains(self, host: str) -> int:
        self.asked.append(host)
        if host in self.hanging:
            assert self.hanging[host].wait(PATIENCE_SECONDS)
        if host in self.refused:
            raise LibvirtError(self.refused[host])
        return self.domains


def wait_until(reached: object) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not reached():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_host_that_does_not_answer_is_silent_until_it_answers_again(monkeypatch: pytest.MonkeyPatch) -> None:
    libvirt = Libvirt(refused={"h2": "Connection refused"})
    reach = Reach(libvirt.active_domains)
    assert reach.silence() == Silence()
    reach.ask(("h1", "h2"))
    assert reach.silence() == Silence(silent={"h2": "Connection refused"}, answered=True)
    assert reach.answers()["h1"].active_domains == 3
    assert reach.answers()["h2"].active_domains is None
    libvirt.refused.clear()
    libvirt.asked.clear()
    reach.keep_up(("h1", "h2"))  # it was asked a moment ago
    assert libvirt.asked == []
    monkeypatch.setattr(reach_module, "_AGAIN_SECONDS", 0.0)
    reach.keep_up(("h1", "h2", "h3"))
    wait_until(lambda: reach.answers().keys() == {"h1", "h2", "h3"} and not reach.silence().silent)
    assert sorted(libvirt.asked) == ["h2", "h3"]  # who answers is not asked again
    reach.forget_others({"h1"})
    assert reach.answers().keys() == {"h1"}


def test_a_host_that_hangs_is_asked_one_question_and_holds_up_nobody() -> None:
    libvirt = Libvirt(hanging={"h2": threading.Event()})
    reach = Reach(libvirt.active_domains)
    for _ in range(20):
        reach.keep_up(("h1", "h2"), closely=("h2",))
    wait_until(lambda: "h1" in reach.answers())
    assert libvirt.asked.count("h2") == 1
    assert "h2" not in reach.answers()
    libvirt.hanging["h2"].set()
    reach.ask(["h2"])
    assert reach.answers()["h2"].active_domains == 3


def test_a_mistake_in_asking_is_no_answer() -> None:
    def ask(_host: str) -> int:
        raise ZeroDivisionError("x")

    reach = Reach(ask)
    reach.ask(["h1"])
    assert reach.silence().silent == {"h1": "unforeseen: ZeroDivisionError: x"}


BUSY = group(host("h1", 0.9, 0.9, 0.9), host("h2", 0.1, 0.1, 0.1), host("h3", 0.4, 0.4, 0.4), domain("a", "h1", 2.0))


def test_a_silent_host_is_unknown_and_no_destination() -> None:
    assert [move.destination for move in plan(BUSY, Policy()).moves] == ["h2"]
    seen = with_silence(BUSY, Silence(silent={"h2": "no answer within 10 s"}), acts=True)
    made = plan(seen, Policy())
    assert [move.destination for move in made.moves] == ["h3"]
    silent = seen.host("h2")
    assert silent is not None
    assert silent.state is HostState.UNKNOWN
    assert silent.why_unknown is not None
    assert silent.why_unknown.kind is UnknownKind.SILENT
    assert silent.why_unknown.text == "its libvirt does not answer the balancer: no answer within 10 s"
    assert [refusal.host for refusal in made.refusals if refusal.reason is Reason.HOST_UNKNOWN] == ["h2"]


def test_a_balancer_that_only_recommends_and_reaches_no_libvirt_goes_by_prometheus_alone() -> None:
    nobody = Silence(silent=dict.fromkeys(("h1", "h2", "h3"), "no ssh key"))
    assert with_silence(BUSY, nobody, acts=False) == BUSY
    assert not any(h.known for h in with_silence(BUSY, nobody, acts=True).hosts)
    some = Silence(silent={"h2": "no answer"}, answered=True)
    assert [h.known for h in with_silence(BUSY, some, acts=False).hosts] == [True, False, True]


def test_any_number_of_hosts_is_asked_by_a_bounded_number_of_threads() -> None:
    class Counted(SystemThreads):
        started = 0

        def start(self, work: Callable[[], object], name: str, *, daemon: bool = True) -> Thread:
            self.started += 1
            return super().start(work, name, daemon=daemon)

    hosts, go_on, threads = [f"h{n}" for n in range(2000)], threading.Event(), Counted()
    libvirt = Libvirt(hanging=dict.fromkeys(hosts, go_on))
    reach = Reach(libvirt.active_domains, threads=threads)
    reach.keep_up(hosts)
    reach.keep_up([*hosts, "other"])
    go_on.set()
    wait_until(lambda: reach.answers().keys() == {*hosts, "other"})
    assert sorted(libvirt.asked) == sorted({*hosts, "other"}), "each once"
    assert threads.started == 32
