"""One turn of the loop, as a function of the time: look, weigh, plan, hand over. Says in one sentence what it did and why."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Protocol

from virtpoise_balancer.analyse.backoff import Standing, after_plan, draining, relieved, with_standing
from virtpoise_balancer.analyse.learned import Experience, with_experience
from virtpoise_balancer.analyse.measure import DuePrediction, Measured, measure, window
from virtpoise_balancer.analyse.silence import Silence, with_silence
from virtpoise_balancer.config import Measurement
from virtpoise_balancer.errors import MonitorError, Refused
from virtpoise_balancer.execute.executor import Executor, InFlight
from virtpoise_balancer.explain import wording
from virtpoise_balancer.knowledge.store import Store
from virtpoise_balancer.model import DomainState, HostState, Move, Plan, Policy, Snapshot
from virtpoise_balancer.monitor.observe import Observation
from virtpoise_balancer.plan import plan as make_plan
from virtpoise_balancer.plan.recheck import obstacle
from virtpoise_balancer.plan.subset import Choice, choice, needs, part

Clock = Callable[[], float]


class CycleResult(StrEnum):
    IDLE = "idle"
    RECOMMENDED = "recommended"
    MOVED = "moved"
    WAITING = "waiting"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a cycle saw and did; ``lost``: domains (uuids) that a migration left running nowhere.

    Without an observation (it failed, or another balancer acts) the rest is empty.
    """

    result: CycleResult
    sentence: str
    observation: Observation | None = None
    plan: Plan | None = None
    standings: Mapping[str, Standing] = field(default_factory=dict)
    measured: tuple[tuple[DuePrediction, Measured], ...] = ()
    lost: frozenset[str] = frozenset()


class Observer(Protocol):
    """Where a cycle looks (monitor does it)."""

    @property
    def reach_back_seconds(self) -> float: ...

    def observe(self, now: float) -> Observation: ...

    def load_between(self, host: str, start: float, end: float) -> tuple[tuple[float, float], ...]: ...


@dataclass(slots=True, kw_only=True)
class Cycle:
    """The loop's parts. What it remembers from one turn to the next is in the store alone."""

    observer: Observer
    store: Store
    executor: Executor
    policy: Policy
    measurement: Measurement
    step_seconds: float
    silence: Callable[[], Silence] = Silence  # which hosts do not answer now

    def run(self, now: float, clock: Clock) -> Report:
        """One turn. ``clock`` is for looks at the group that come later, before each move."""
        try:
            seen = self.observer.observe(now)
        except MonitorError as error:
            return Report(result=CycleResult.FAILED, sentence=f"nothing is done: {error}")
        seen = replace(seen, snapshot=self._heard(seen.snapshot))
        standings = self._brought_up_to_date(seen.snapshot)
        seen = replace(seen, snapshot=self._placed(seen.snapshot, standings, now))
        measured = self._measure(now)
        running = (domain.uuid for domain in seen.snapshot.domains if domain.state is DomainState.RUNNING)
        lost = self.store.lost(running)
        if self.executor.busy:
            return Report(
                result=CycleResult.WAITING,
                sentence=_under_way(self.executor.in_flight),
                observation=seen,
                standings=standings,
                measured=measured,
                lost=lost,
            )
        plan = make_plan(seen.snapshot, self.policy)
        result = CycleResult.IDLE
        if plan.attempts:
            acted = self.executor.acts or not plan.moves
            entries = self.store.record_plan(plan, now, acted=acted)
            if entries:
                self.executor.carry_out(entries, lambda move: self._obstacle(move, clock))
            if plan.moves:
                result = CycleResult.MOVED if acted else CycleResult.RECOMMENDED
        elif not plan.solved:
            result = CycleResult.WAITING
        return Report(
            result=result,
            sentence=_with_unknown(plan.summary, seen.snapshot),
            observation=seen,
            plan=plan,
            standings=standings,
            measured=measured,
            lost=lost,
        )

    def apply(self, wanted: Set[Choice], now: float, clock: Clock) -> Plan:
        """Make these moves of the plan, as it is on a fresh look; what is begun. Refused when they are not (all) in it any more."""
        if self.executor.busy:
            raise Refused(_under_way(self.executor.in_flight))
        snapshot = self._heard(self.observer.observe(now).snapshot)
        plan = make_plan(self._placed(snapshot, self._brought_up_to_date(snapshot), now), self.policy)
        gone = wanted - {choice(move) for move in plan.moves}
        if gone:
            raise Refused(f"out of date: {_no_longer(gone, snapshot)}; now {plan.summary}")
        if why := needs(plan, wanted):
            raise Refused(f"only together: {why}")
        chosen = part(plan, wanted)
        self.executor.carry_out(
            self.store.record_plan(chosen, now, acted=True), lambda move: self._obstacle(move, clock)
        )
        return chosen

    def _heard(self, snapshot: Snapshot) -> Snapshot:
        return with_silence(snapshot, self.silence(), acts=self.executor.acts)

    def _placed(self, snapshot: Snapshot, standings: Mapping[str, Standing], now: float) -> Snapshot:
        return placed(snapshot, standings, self.store.experience(now - remembered_seconds(self.policy)))

    def _brought_up_to_date(self, snapshot: Snapshot) -> dict[str, Standing]:
        """The standings after the plans that ended and the readings since."""
        for ended in self.store.ended_plans():
            self.store.settle(
                ended.id,
                after_plan(
                    self.store.standings(),
                    [host.name for host in snapshot.hosts],
                    ended.plan,
                    ended.results,
                    ended=ended.ended,
                    counted_from=ended.ended + self.observer.reach_back_seconds,
                    penalty=self.policy.penalty,
                    silent=self.silence().lately,
                ),
            )
        standings = self.store.standings()
        relief = {
            host.name: after
            for host in draining(snapshot, standings).hosts
            if (before := standings.get(host.name))
            and (after := relieved(before, host, snapshot, self.policy)) != before
        }
        self.store.save_standings(relief.values())
        return standings | relief

    def _measure(self, now: float) -> tuple[tuple[DuePrediction, Measured], ...]:
        """Hold the predictions whose window has passed against what was measured in it."""
        verdicts = []
        for due in self.store.due_predictions(now - self.measurement.settle_seconds):
            start, end = window(due, self.measurement.settle_seconds, self.measurement.window_seconds)
            if end > now:
                continue
            try:
                samples = self.observer.load_between(due.host, start, end)
            except MonitorError:
                continue  # asked again in the next cycle
            verdict = measure(due, (start, end), samples, self.step_seconds)
            self.store.record_verdict(due.id, verdict)
            verdicts.append((due, verdict))
        return tuple(verdicts)

    def _obstacle(self, move: Move, clock: Clock) -> str | None:
        if pause := self.store.steering().paused:
            return f"paused by {pause.who}"
        try:
            snapshot = self._heard(self.observer.observe(clock()).snapshot)
        except MonitorError as error:
            return str(error)
        return obstacle(move, draining(snapshot, self.store.standings()))


def remembered_seconds(policy: Policy) -> float:
    """How far back the moves of a domain count towards its rest."""
    return max(policy.rest_seconds, policy.rest_max_seconds)


def placed(snapshot: Snapshot, standings: Mapping[str, Standing], experience: Experience) -> Snapshot:
    """The snapshot with all that is remembered of its hosts and domains, so that it alone decides the plan."""
    return with_experience(with_standing(draining(snapshot, standings), standings), experience)


def _no_longer(gone: Set[Choice], snapshot: Snapshot) -> str:
    names = {domain.uuid: domain.name for domain in snapshot.domains}
    told = sorted(f"{names.get(uuid, uuid)} to {destination}" for uuid, destination in gone)
    return f"the plan no longer has {', '.join(told)}"


def _under_way(in_flight: tuple[InFlight, ...]) -> str:
    if not in_flight:
        return "moves are being made: nothing else is judged meanwhile"
    parts = []
    for flight in in_flight:
        text = f"{flight.move.domain} is moving from {flight.move.source} to {flight.move.destination}"
        if flight.progress and flight.progress.total_bytes:
            done = 1 - flight.progress.remaining_bytes / flight.progress.total_bytes
            dirtied = wording.dirtied(flight.progress.dirty_bytes_per_second)
            text += f" ({done:.0%}, {flight.progress.elapsed_seconds:.0f} s{dirtied})"
        parts.append(text)
    return f"{', '.join(parts)}: nothing else is judged meanwhile"


def _with_unknown(sentence: str, snapshot: Snapshot) -> str:
    unknown = [host.name for host in snapshot.hosts if host.state is HostState.UNKNOWN]
    if not snapshot.hosts:
        return "no host is scraped: nothing to do"
    return f"{sentence}; unknown: {', '.join(unknown)}" if unknown else sentence
