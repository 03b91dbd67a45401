"""The executor: moves of a wave at the same time, waves one after another, and nothing that counts on what did not happen."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import pytest

from virtpoise_balancer.errors import Refused
from virtpoise_balancer.execute import executor as execute
from virtpoise_balancer.execute.executor import LibvirtExecutor
from virtpoise_balancer.execute.migrate import Watch
from virtpoise_balancer.model import Move, Outcome, PredictedLoads, Prediction, Progress, Result

DONE = Outcome(result=Result.DONE)
LOADS = PredictedLoads(source=Prediction.exact(0.5), destination=Prediction.exact(0.5))


def move(domain: str, source: str, destination: str, wave: int = 0, *, needs: str | None = None) -> Move:
    return Move(
        domain=domain,
        uuid=f"uuid-of-{domain}",
        source=source,
        destination=destination,
        predicted=LOADS,
        wave=wave,
        needs=(f"uuid-of-{needs}",) if needs else (),
    )


@dataclass
class Hosts:
    """In the place of libvirt: ``migrate`` is what a migration does; which began and ended is written down in order."""

    does: Callable[[Move], Outcome | None] = lambda _: DONE
    settles: Callable[[Move], Outcome | None] = lambda _: DONE
    written: list[tuple[str, str]] = field(default_factory=list)
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    asked: list[Sequence[str]] = field(default_factory=list)

    def migrate(self, move: Move, watch: Watch, stop: threading.Event) -> Outcome | None:
        watch(Progress(elapsed_seconds=1.0, total_bytes=2, processed_bytes=1, remaining_bytes=1))
        return self.does(move)

    def settle(self, move: Move, watch: Watch, stop: threading.Event) -> Outcome | None:
        return self.settles(move)

    def begin(self, migration_id: int) -> None:
        self.written.append(("begin", str(migration_id)))

    def end(self, migration_id: int, outcome: Outcome) -> None:
        self.written.append(("end", str(migration_id)))

    def ended(self, move: Move, outcome: Outcome) -> None:
        self.outcomes[move.domain] = outcome


def executor(hosts: Hosts) -> LibvirtExecutor:
    return LibvirtExecutor(hosts, hosts, hosts.ended, hosts.asked.append)  # type: ignore[arg-type]


def carry_out(hosts: Hosts, *moves: Move, recheck: Callable[[Move], str | None] = lambda _: None) -> LibvirtExecutor:
    made = executor(hosts)
    made.carry_out(list(enumerate(moves)), recheck)
    assert made.wait(10)
    return made


@pytest.mark.parametrize(
    "end", [Outcome(result=Result.SKIPPED, why="no answer"), Outcome(result=Result.FAILED, why="x"), DONE]
)
def test_after_a_move_that_was_not_made_its_hosts_are_asked_before_its_end_is_written(end: Outcome) -> None:
    hosts = Hosts(lambda _: end)
    made = executor(hosts)
    made.ask = lambda asked: hosts.written.append(("ask", "+".join(asked)))
    made.carry_out([(7, move("a", "h1", "h2"))], lambda _: None)
    made._thread.join(10)  # type: ignore[union-attr]
    asked = [] if end is DONE else [("ask", "h1+h2")]
    assert hosts.written == [("begin", "7"), *asked, ("end", "7")]


def test_moves_of_one_wave_are_under_way_together() -> None:
    together = threading.Barrier(3, timeout=10)
    seen: list[set[str]] = []

    def meet(_: Move) -> Outcome:
        together.wait()
        together.wait()
        return DONE

    hosts = Hosts(meet)
    made = executor(hosts)
    made.carry_out(list(enumerate([move("a", "h1", "h2"), move("b", "h3", "h4")])), lambda _: None)
    together.wait()
    seen.append({flight.move.domain for flight in made.in_flight})
    assert all(flight.progress for flight in made.in_flight)
    assert all(0 <= flight.seconds < 10 for flight in made.in_flight)
    together.wait()
    assert made.wait(10)
    assert seen == [{"a", "b"}]
    assert made.in_flight == ()
    assert hosts.outcomes == {"a": DONE, "b": DONE}


def test_a_wave_begins_when_the_one_before_has_ended() -> None:
    hosts = Hosts()
    carry_out(hosts, move("a", "h1", "h2", 0), move("b", "h1", "h3", 1), move("c", "h1", "h2", 2))
    assert hosts.written == [(what, str(i)) for i in range(3) for what in ("begin", "end")]


def test_what_counts_on_a_move_that_was_not_made_is_skipped_and_never_begun() -> None:
    hosts = Hosts(lambda one: replace(DONE, result=Result.FAILED) if one.domain == "out" else DONE)
    carry_out(
        hosts,
        move("out", "h2", "h3", 0),
        move("in", "h1", "h2", 1, needs="out"),
        move("after", "h4", "h1", 2, needs="in"),
        move("other", "h1", "h3", 2),
    )
    assert {domain: outcome.result.value for domain, outcome in hosts.outcomes.items()} == {
        "out": "failed",
        "in": "skipped",
        "after": "skipped",
        "other": "done",
    }
    assert hosts.outcomes["in"].why == "it counts on out having left h2, which did not"
    assert ("begin", "1") not in hosts.written


def test_a_move_is_looked_at_again_before_it_is_made() -> None:
    hosts = Hosts()
    carry_out(
        hosts, move("a", "h1", "h2"), move("b", "h3", "h4"), recheck=lambda one: "gone" if one.domain == "a" else None
    )
    assert (hosts.outcomes["a"], hosts.outcomes["b"]) == (Outcome(result=Result.SKIPPED, why="gone"), DONE)


def test_told_to_stop_it_begins_no_further_wave() -> None:
    made: list[LibvirtExecutor] = []

    def stop(_: Move) -> Outcome:
        made[0].stop.set()
        return DONE

    hosts = Hosts(stop)
    made.append(executor(hosts))
    made[0].carry_out(list(enumerate([move("a", "h1", "h2", 0), move("b", "h1", "h2", 1)])), lambda _: None)
    assert made[0].wait(10)
    assert [hosts.outcomes[name].result for name in "ab"] == [Result.DONE, Result.SKIPPED]


def test_an_unforeseen_error_ends_the_move_as_failed_and_the_others_go_on() -> None:
    def break_for_a(one: Move) -> Outcome:
        if one.domain == "a":
            raise ValueError("unheard of")
        return DONE

    hosts = Hosts(break_for_a)
    carry_out(hosts, move("a", "h1", "h2"), move("b", "h3", "h4"))
    assert (hosts.outcomes["a"].result, hosts.outcomes["b"].result) == (Result.FAILED, Result.DONE)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_move_whose_end_cannot_be_written_down_is_not_counted_on() -> None:
    class Full(Hosts):
        def end(self, migration_id: int, outcome: Outcome) -> None:
            if migration_id == 0:
                raise OSError("disk full")
            super().end(migration_id, outcome)

    hosts = Full()
    carry_out(hosts, move("out", "h2", "h3", 0), move("in", "h1", "h2", 1, needs="out"), move("other", "h1", "h3", 1))
    assert {domain: outcome.result.value for domain, outcome in hosts.outcomes.items()} == {
        "in": "skipped",
        "other": "done",
    }


def test_all_that_an_earlier_process_left_under_way_is_waited_for_at_once() -> None:
    together = threading.Barrier(2, timeout=10)

    def meet(_: Move) -> Outcome:
        together.wait()
        return DONE

    hosts = Hosts(settles=meet)
    made = executor(hosts)
    made.adopt([(1, move("a", "h1", "h2")), (2, move("b", "h3", "h4"))])
    assert made.wait(10)
    assert hosts.outcomes == {"a": DONE, "b": DONE}


def test_a_move_whose_end_nobody_tells_stays_open_until_both_hosts_tell_it_and_holds_up_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(execute, "_RETRY_SECONDS", 0.01)
    answers, asked = threading.Event(), threading.Semaphore(0)

    def settle(_: Move) -> Outcome | None:
        asked.release()
        return DONE if answers.is_set() else None

    hosts = Hosts(lambda one: None if one.domain == "a" else DONE, settle)
    made = carry_out(hosts, move("a", "h1", "h2", 0), move("b", "h3", "h1", 1, needs="a"), move("c", "h3", "h4", 1))
    assert {domain: outcome.result.value for domain, outcome in hosts.outcomes.items()} == {
        "b": "skipped",  # it counts on a having left h1
        "c": "done",
    }
    assert all(asked.acquire(timeout=10) for _ in range(3))
    assert ("end", "0") not in hosts.written
    answers.set()
    assert made.wait(10, ends=True)
    assert hosts.outcomes["a"] == DONE
    assert hosts.written.count(("end", "0")) == 1


def test_told_to_stop_it_leaves_the_end_that_nobody_tells_to_the_next_balancer() -> None:
    asked = threading.Event()

    def settle(_: Move) -> None:
        asked.set()

    hosts = Hosts(lambda _: None, settle)
    made = executor(hosts)
    made.carry_out([(0, move("a", "h1", "h2"))], lambda _: None)
    assert asked.wait(10)
    made.close()
    assert hosts.written == [("begin", "0")]
    assert made.wait(0, ends=True)


def test_once_it_was_told_to_stop_nothing_is_started_any_more() -> None:
    hosts = Hosts()
    made = executor(hosts)
    made.close()
    with pytest.raises(Refused, match="about to end"):
        made.carry_out([(0, move("a", "h1", "h2"))], lambda _: None)
    assert hosts.written == []


ENDS_UNDER_WAY = """
import threading, time
from virtpoise_balancer.execute.executor import LibvirtExecutor
from virtpoise_balancer.model import *
class Hosts:
    def migrate(self, move, watch, stop):
        time.sleep(0.3)
        return Outcome(result=Result.DONE)
    def begin(self, number): print("begin", number, flush=True)
    def end(self, number, outcome): print("end", number, outcome.result.value, flush=True)
loads = PredictedLoads(source=Prediction.exact(0.5), destination=Prediction.exact(0.5))
moves = [Move(domain=f"d{n}", uuid=f"u{n}", source="h1", destination="h2", predicted=loads, wave=n) for n in range(2)]
made = LibvirtExecutor(Hosts(), Hosts(), lambda *_: None, lambda _: None)
made.carry_out(list(enumerate(moves)), lambda _: None)
"""


def test_moves_under_way_end_in_good_order_when_the_interpreter_ends_before_them() -> None:
    done = subprocess.run([sys.executable, "-c", ENDS_UNDER_WAY], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split("\n")[:-1] == ["begin 0", "end 0 done", "begin 1", "end 1 done"]
