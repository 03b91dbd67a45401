"""What a balancer does at each step of the schedule: lead or wait, run a cycle, and report what came of it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping, Set
from dataclasses import dataclass, field, replace

import structlog

from virtpoise_balancer.clock import Clock
from virtpoise_balancer.config import Config
from virtpoise_balancer.control.cycle import Cycle, Report
from virtpoise_balancer.control.decide import CycleResult
from virtpoise_balancer.errors import Deposed, Refused, StoreError
from virtpoise_balancer.execute.reach import HostAnswer, Reach
from virtpoise_balancer.knowledge.store import Store
from virtpoise_balancer.model import DomainState, Plan, UnknownKind
from virtpoise_balancer.monitor.observe import Observation
from virtpoise_balancer.plan.subset import Choice
from virtpoise_balancer.service import reports
from virtpoise_balancer.service.changes import LoggedChanges
from virtpoise_balancer.service.leading import Leadership
from virtpoise_balancer.service.systemd import notify
from virtpoise_balancer.threads import THREADS, Lock, Threads
from virtpoise_balancer.web.metrics import Metrics
from virtpoise_balancer.web.state import Published, State, newest_figures

log = structlog.get_logger()

_FORGET_EVERY = 60  # cycles
# Unknown hosts whose figures are there, and so their libvirt.
_STILL_ASKED = (UnknownKind.SILENT, UnknownKind.UNACCOUNTED, UnknownKind.MIGRATING)
# How long an order waits for a cycle that is being run.
_ORDER_SECONDS = 30.0


def first_state(config: Config, *, leader: bool = False) -> State:
    """What is shown before the first cycle."""
    return State(
        mode=config.mode,
        only_recommends=config.libvirt.only_recommends,
        leader=leader,
        policy=config.policy,
        interval_seconds=config.interval_seconds,
    )


def state_after(
    report: Report, config: Config, now: float, *, before: State, leads: bool, host_answers: Mapping[str, HostAnswer]
) -> State:
    """The state to be published once a cycle has ended. ``before``: the state so far. ``host_answers``: as in State."""
    return replace(
        first_state(config, leader=leads),
        cycle_at=now,
        figures_at=newest_figures(before.figures_at, report.observation, now) if leads else None,
        result=report.result.value,
        sentence=report.sentence,
        observation=report.observation,
        plan=report.plan,
        backoffs=report.backoffs,
        drains=report.drains,
        predictions=report.predictions,
        unsettled=report.unsettled,
        brake=report.standing.brake,
        blackout=report.standing.blackout,
        broken=report.broken,
        host_answers=host_answers,
    )


@dataclass(frozen=True, slots=True)
class EarlyLook:
    """A look at a group that was begun before its turn. ``at``: the time of what it sees (Unix seconds).

    ``seen``: waits for its end, and raises what it has raised.
    """

    at: float
    seen: Callable[[], Observation]


@dataclass(slots=True, kw_only=True)
class Turns:
    """The turns of one group. ``config`` and ``cycle``: replaced when the configuration is read again. ``settle``:
    called after each turn. ``go_on``: called after each cycle, for moves that may begin since one of an earlier process
    has ended.

    ``left_out``: called with each row of the store that cannot be read. ``noted``: gives a plan the notes that are
    shown with it. ``look_at``: takes by host that answers the uuids of its running domains, to look at what is new.
    ``group``: its name, empty where there are none. ``turning``: shared by all groups, so that one at a
    time decides: a cycle, or a person who applies a plan.
    """

    config: Config
    cycle: Cycle
    leadership: Leadership
    store: Store
    reach: Reach
    metrics: Metrics
    published: Published
    clock: Clock
    threads: Threads = THREADS
    settle: Callable[[], None] = lambda: None
    go_on: Callable[[], None] = lambda: None
    left_out: Callable[[str], None] = lambda _row: None
    noted: Callable[[Plan], Plan] = lambda plan: plan
    look_at: Callable[[Mapping[str, Collection[str]]], None] = lambda _running: None
    group: str = ""
    turning: Lock | None = None
    _cycles: int = 0
    _changes: LoggedChanges = field(default_factory=LoggedChanges)
    _turning: Lock = field(init=False)

    def __post_init__(self) -> None:
        self._turning = self.turning or self.threads.lock()

    def turn(self, prepare: Callable[[], None] = lambda: None, early: EarlyLook | None = None) -> None:
        """One turn, whatever fails in it. ``prepare``: done first, while no order is being followed. ``early``: a look
        that was begun before.
        """
        with self._logged():
            self._turn(prepare, early)

    def look(self, at: float) -> Observation:
        """The group as it was at that time (Unix seconds). MonitorError."""
        with self._logged():
            return self.cycle.observer.observe(at)

    def _logged(self) -> contextlib.AbstractContextManager[object]:
        return structlog.contextvars.bound_contextvars(**({"group": self.group} if self.group else {}))

    def _turn(self, prepare: Callable[[], None], early: EarlyLook | None) -> None:
        began, now = self.clock.monotonic(), self.clock.now()
        try:
            with self._turning:
                prepare()
                now = early.at if early else self.clock.now()  # the lock may have been held for long
                report = self._one(now, early)
        except Deposed as error:
            report = Report(result=CycleResult.WAITING, sentence=self.leadership.step_down(error.why))
        except StoreError as error:
            report = Report(result=CycleResult.FAILED, sentence=f"nothing is done: {error}")
        except Exception as error:
            log.exception("a cycle failed for a reason that the program does not expect")
            report = self._failed(error, now)
        try:
            self._publish(report, now, self.clock.monotonic() - began)
        except Exception:
            log.exception("the outcome of a cycle could not be published")
        self.published.cycle_ended = self.clock.monotonic()
        notify("WATCHDOG=1")

    def apply(self, wanted: Set[Choice]) -> Plan:
        """Make these moves of the plan, as a person ordered. Refused when they cannot be made."""
        if not self._turning.acquire(timeout=_ORDER_SECONDS):
            raise Refused("a cycle is taking long: try again")
        try:
            if not self.leadership.leads:
                raise Refused("another balancer acts: ask that one")
            return self.cycle.apply(wanted, self.clock.now())
        finally:
            self._turning.release()

    def _one(self, now: float, early: EarlyLook | None) -> Report:
        if why := self.leadership.why_not(self.store):
            return Report(result=CycleResult.WAITING, sentence=why)
        report = self.cycle.run(now, early.seen if early else None)
        self.go_on()
        return report

    def _failed(self, error: Exception, now: float) -> Report:
        sentence = f"unforeseen: {type(error).__name__}: {error}"
        if self.leadership.leads:
            with contextlib.suppress(Exception):  # the store may be what failed
                return self.cycle.failed(sentence, now)
        return Report(result=CycleResult.FAILED, sentence=sentence)

    def _publish(self, report: Report, now: float, seconds: float) -> None:
        """Log the outcome of a cycle, and show it on the page and in the metrics."""
        level = log.error if report.result is CycleResult.FAILED else log.info
        level(report.sentence, result=report.result.value, seconds=round(seconds, 3))
        for warning in report.observation.warnings if report.observation else ():
            log.warning("Prometheus warns", warning=warning)
        if report.plan is not None:
            report = replace(report, plan=self.noted(report.plan))
        self._ask_hosts(report)
        self._changes.report(report.observation, self.reach.silence().silent)
        self._changes.report_brake(report.standing.brake)
        for row in report.broken:
            self.left_out(row)
        for due, measured in report.measured:
            self.metrics.prediction_measured(due, measured)
            log.info(
                "a prediction was measured",
                host=due.host,
                role=due.role,
                predicted=round(due.predicted, 3),
                measured=None if measured.ratio is None else round(measured.ratio, 3),
                verdict=measured.verdict,
            )
        for one in report.others:
            self.metrics.others_changed(one)
        reports.others_changed(report.others)
        self.metrics.cycle_ended(report.result.value, seconds)
        self.published.state = state_after(
            report,
            self.config,
            now,
            before=self.published.state,
            leads=self.leadership.leads,
            host_answers=self.reach.answers(),
        )
        self.settle()
        self._cycles += 1
        if self.leadership.leads and self._cycles % _FORGET_EVERY == 0:
            with contextlib.suppress(StoreError):  # the next cycle fails, in words
                self.store.forget(now, keep_days=self.config.state.keep_days, keep_bytes=self.config.state.keep_bytes)

    def _ask_hosts(self, report: Report) -> None:
        """Ask the libvirt daemons that answer their exporter for what the next cycle should know. It does not wait."""
        if report.observation is None:
            return
        snapshot = report.observation.snapshot
        hosts = snapshot.hosts
        draining = {name for name, order in report.drains.items() if order.draining}
        reachable = [host.name for host in hosts if not (unknown := host.why_unknown) or unknown.kind in _STILL_ASKED]
        self.reach.forget_others({host.name for host in hosts} | draining)
        self.reach.keep_up(reachable, closely=draining)
        answers = self.reach.answers()
        running: dict[str, list[str]] = {name: [] for name in reachable if name in answers and not answers[name].why}
        for domain in snapshot.domains:
            if domain.host in running and domain.state is DomainState.RUNNING:
                running[domain.host].append(domain.uuid)
        self.look_at(running)
