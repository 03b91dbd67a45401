"""One turn of the loop: observe, recall, decide, commit, act. Reports what it did and why in one sentence."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

from virtpoise_balancer.analyse.backoff import Backoff
from virtpoise_balancer.analyse.commitments import remembered_since
from virtpoise_balancer.analyse.drains import DrainOrder, of_group
from virtpoise_balancer.analyse.facts import refuse
from virtpoise_balancer.analyse.habits import HabitBook, Readings
from virtpoise_balancer.analyse.measure import DuePrediction, Measured, window
from virtpoise_balancer.analyse.others import LONGEST_GAP_SECONDS, OthersChange, counting, disturbed
from virtpoise_balancer.analyse.silence import Silence
from virtpoise_balancer.clock import Clock
from virtpoise_balancer.config import Measurement
from virtpoise_balancer.control import usual
from virtpoise_balancer.control.acting import Standing, standing
from virtpoise_balancer.control.decide import (
    CycleResult,
    Decision,
    Situation,
    Window,
    bring_up_to_date,
    decide,
    decide_on_order,
    next_cycle,
    why_not_now,
    with_begun,
)
from virtpoise_balancer.control.usual import PastObserver
from virtpoise_balancer.errors import MonitorError, Refused
from virtpoise_balancer.execute.accounts import Accounts, NoAccounts
from virtpoise_balancer.execute.copies import SeenTwice
from virtpoise_balancer.execute.executor import Executor, RecommendingExecutor
from virtpoise_balancer.knowledge.records import Changes, Committed, Memory, PredictionRecord
from virtpoise_balancer.knowledge.store import Store
from virtpoise_balancer.model import Facts, Mode, Move, Plan, Policy, SampleTimes, Snapshot, Unsettled
from virtpoise_balancer.monitor.observe import HostWindow, MeasuredLoads, Observation
from virtpoise_balancer.plan.subset import Choice

# How often a cycle plans again since hosts would refuse some moves, and for how long.
_MOST_PLANS = 10
_MOST_ASKING_SECONDS = 5.0
# Why a move that waits is withdrawn, for the journal.
_ANEW = "it waited for its turn, and other moves relieve its host at once"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a cycle saw and did. If the look failed or another balancer acts, only ``result`` and ``sentence`` are set.

    ``observation``: with all that is remembered put into its snapshot. ``predictions``: those without a verdict.
    ``unsettled``: domains that keep all action off their hosts. ``standing``: whether plans are carried out without a
    person's approval. ``others``: changes by others that this cycle saw. ``broken``: rows of the store that were left
    out.
    """

    result: CycleResult
    sentence: str
    observation: Observation | None = None
    plan: Plan | None = None
    backoffs: Mapping[str, Backoff] = field(default_factory=dict)
    drains: Mapping[str, DrainOrder] = field(default_factory=dict)
    measured: tuple[tuple[DuePrediction, Measured], ...] = ()
    predictions: tuple[PredictionRecord, ...] = ()
    unsettled: tuple[Unsettled, ...] = ()
    standing: Standing = field(default_factory=Standing)
    others: tuple[OthersChange, ...] = ()
    broken: tuple[str, ...] = ()


class GroupObserver(PastObserver, Protocol):
    """Where a cycle looks (monitor does it). All methods raise MonitorError."""

    def observe(self, now: float) -> Observation: ...

    def observe_hosts(self, hosts: Collection[str], now: float) -> Observation:
        """Only these hosts and their domains."""
        ...

    def loads(self, windows: Collection[HostWindow]) -> MeasuredLoads:
        """What the hosts' load was in these windows."""
        ...


class Possible(Protocol):
    """What is known of what libvirt would refuse (execute finds it out)."""

    def facts(self, hosts: Collection[str] = (), /) -> Facts:
        """What stands against migrations, by all that is known now. ``hosts``: of the group; none: those of before."""
        ...

    def ask(self, moves: Sequence[Move], *, skip: Collection[str], acts: bool) -> None:
        """Ask both hosts of each move, unless what they said is new enough. Returns within a bounded time.

        ``skip``: hosts that do not answer. ``acts``: the moves are about to be made.
        """
        ...

    def look_soon(self, hosts: Collection[str], /) -> None:
        """Look at these hosts sooner than at others, until the next call: they lacked what moves would need."""
        ...


class NothingKnown:
    """Nothing is known to stand against a migration, and no one is asked."""

    def facts(self, _hosts: Collection[str] = (), /) -> Facts:
        return Facts()

    def ask(self, moves: Sequence[Move], *, skip: Collection[str], acts: bool) -> None: ...

    def look_soon(self, _hosts: Collection[str], /) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Cycle:
    """The parts of the loop. What it remembers from one turn to the next is in the store alone.

    Except ``habits``, what domains usually use: the first turn reads it from the past, and so does one after a pause.

    ``accounts``: what is not accounted for. ``silence``: which hosts do not answer now. ``mode``: as configured.
    ``only_recommends``: why no move may be made automatically, or None. ``shared``: the hosts that another group has as
    well, and why nothing is done with them. ``possible``: what libvirt would refuse. ``post_copy``: domains that did
    not converge may be migrated by post-copy.
    """

    observer: GroupObserver
    store: Store
    executor: Executor
    policy: Policy
    measurement: Measurement
    clock: Clock
    mode: Mode
    only_recommends: str | None = None
    post_copy: bool = False
    silence: Callable[[], Silence] = Silence
    shared: Callable[[], Mapping[str, str]] = dict
    possible: Possible = field(default_factory=NothingKnown)
    accounts: Accounts = field(default_factory=NoAccounts)
    habits: HabitBook = field(default_factory=HabitBook)

    def run(self, now: float, look: Callable[[], Observation] | None = None) -> Report:
        """One turn at ``now`` (Unix seconds). ``look``: has what was seen then, or raises why nothing was."""
        try:
            seen = look() if look else self.observer.observe(now)
        except MonitorError as error:
            return self.failed(f"nothing is done: {error}", now)
        untold = usual.take_in(self.habits, self.observer, seen.snapshot, self.policy)
        seen = replace(seen, snapshot=usual.with_habits(seen.snapshot, self.habits, self.policy))
        hosts = _known(seen.snapshot)
        self.store.adopt(hosts)
        busy = self.executor.busy
        memory = self._recall(now, hosts)  # after `busy`: the ends of what is not under way any more are in the store
        if memory.is_ahead_of(self.clock.now()):
            self.store.redate(now)  # only now is it certain which clock is right: that of Prometheus says the same
            memory = self._recall(now, hosts)
        twice = self._seen_twice(seen, memory, now)
        self.accounts.keep_up(memory.watched, hosts, twice)
        windows, warnings = self._windows(memory, now)
        known = self._standing(memory, now)
        executor = self.executor if known.acts else RecommendingExecutor(self.executor)
        situation = self._situation(seen.snapshot, memory, now, known, executor, windows, busy=busy)
        situation, decision = self._decide_on_possible(replace(situation, twice=frozenset(seen.duplicates)))
        if decision.withdrawn and not executor.withdraw(decision.withdrawn, _ANEW):
            situation, decision = self._decide_on_possible(with_begun(situation, decision.withdrawn))
        unsolved = decision.plan is not None and not decision.plan.solved
        self.possible.look_soon(situation.memory.facts.lacking_what_may_come() if unsolved else ())
        committed = self.store.commit(decision.changes, now)
        if decision.carry_out:
            executor.carry_out(committed.entries, partial(self.obstacle, ordered=False))
        duplicates = {uuid: one.hosts for uuid, one in twice.items() if not one.expected}
        warnings = tuple(dict.fromkeys((*seen.warnings, *untold, *warnings)))
        seen = replace(seen, duplicates=duplicates, warnings=warnings)
        return _report(decision, seen, situation, committed)

    def _decide_on_possible(self, situation: Situation) -> tuple[Situation, Decision]:
        """The decision, and what it was made on: both hosts of each move were asked whether libvirt would make it.

        Where it would not, that is a fact, and the cycle decides again, a few times at most; what is planned last is
        asked again before it begins.
        """
        decision = decide(situation)
        until = self.clock.monotonic() + _MOST_ASKING_SECONDS
        for _ in range(_MOST_PLANS):
            moves = decision.plan.moves if decision.plan else ()
            if not moves or self.clock.monotonic() >= until or not (facts := self._asked(situation, moves)):
                break
            situation = replace(situation, memory=replace(situation.memory, facts=facts))
            decision = decide(situation)
        return situation, decision

    def _asked(self, situation: Situation, moves: Sequence[Move]) -> Facts | None:
        """The facts once both hosts of each move were asked, if the moves may not be made as they are."""
        self.possible.ask(moves, skip=situation.silence.silent, acts=situation.acts)
        facts = self.possible.facts()
        return facts if refuse(facts, moves, situation.memory.facts) else None

    def apply(self, wanted: Set[Choice], now: float) -> Plan:
        """Make these moves of the plan, as it is on a fresh look, and return them.

        Refused when they are not all in it any more.
        """
        seen = self.observer.observe(now)
        seen = replace(seen, snapshot=usual.with_habits(seen.snapshot, self.habits, self.policy))
        busy = self.executor.busy
        memory = self._recall(now, _known(seen.snapshot))
        known = self._standing(memory, now)
        situation = self._situation(seen.snapshot, memory, now, known, self.executor, (), busy=busy)
        decided = decide_on_order(situation, wanted)
        if not isinstance(decided, str) and (facts := self._asked(situation, decided[1].moves)):
            situation = replace(situation, memory=replace(situation.memory, facts=facts))
            decided = decide_on_order(situation, wanted)
        if isinstance(decided, str):
            raise Refused(decided)
        decision, chosen = decided
        committed = self.store.commit(decision.changes, now)
        self.executor.carry_out(committed.entries, partial(self.obstacle, ordered=True))
        return chosen

    def obstacle(self, move: Move, *, ordered: bool) -> str | None:
        """Why a planned move must not begin now, on a fresh look at the hosts that it concerns; None when it may.

        Asks no host: the executor has done so before, and only one move at a time gets here.
        ``ordered``: a person chose the move.
        """
        now = self.clock.now()
        ends, times = {move.source, move.destination}, self.observer.sample_times
        memory = self.store.recall_for_look(
            ended_since=remembered_since(now, times), judged_since=_judged_since(self.policy, now)
        )
        on_the_way = {one.source for one in memory.commitments if one.destination in ends and one.may_count(now, times)}
        try:
            seen = self.observer.observe_hosts(ends | on_the_way, now).snapshot
        except MonitorError as error:
            return str(error)
        known = self._standing(memory, now)
        memory = replace(memory, facts=self.possible.facts())
        situation = self._situation(seen, memory, now, known, self.executor, (), busy=True)
        return why_not_now(situation, move, ordered=ordered)

    def remember(self, at: float, read: Callable[[], Readings]) -> None:
        """Keep what domains use at this time (Unix seconds), in the place of a turn."""
        if self.policy.traits.habits:
            usual.keep(self.habits, self.observer, at, read(), self.policy)

    def _recall(self, now: float, hosts: Collection[str]) -> Memory:
        """What the store remembers, the libvirts' facts included. ``hosts``: those that the group has now."""
        memory = recall(self.store, self.policy, self.observer.sample_times, now, hosts)
        return replace(memory, facts=self.possible.facts(hosts))

    def _seen_twice(self, seen: Observation, memory: Memory, now: float) -> dict[str, SeenTwice]:
        """The domains that are seen running on several hosts, by uuid."""
        if not seen.duplicates:
            return {}
        names = {domain.uuid: domain.name for domain in seen.snapshot.domains}
        ways: dict[str, set[str]] = {}
        for one in memory.commitments:
            if one.may_count(now, self.observer.sample_times):
                ways.setdefault(one.uuid, set()).update(one.hosts)
        return {
            uuid: SeenTwice(names.get(uuid, uuid), hosts, expected=ways.get(uuid, set()).issuperset(hosts))
            for uuid, hosts in seen.duplicates.items()
        }

    def _standing(self, memory: Memory, now: float) -> Standing:
        return standing(memory, self.policy, self.mode, now, only_recommends=self.only_recommends)

    def _situation(
        self,
        seen: Snapshot,
        memory: Memory,
        now: float,
        known: Standing,
        executor: Executor,
        windows: tuple[Window, ...],
        *,
        busy: bool,
    ) -> Situation:
        return Situation(
            now=now,
            seen=replace(seen, post_copy=self.post_copy),
            memory=memory,
            policy=self.policy,
            windows=windows,
            silence=self.silence(),
            shared=self.shared(),
            unsettled=self.accounts.unsettled(memory.watched),
            standing=known,
            acts=executor.acts,
            busy=busy,
            in_flight=executor.in_flight,
            times=self.observer.sample_times,
        )

    def _windows(self, memory: Memory, now: float) -> tuple[tuple[Window, ...], tuple[str, ...]]:
        """The predictions whose window has passed, with what was measured in it; and the warnings of these queries."""
        due, times = [], self.observer.sample_times
        for one in disturbed(memory.due, counting(memory.others)):
            start, end = window(one, self.measurement.settle_seconds, self.measurement.window_seconds, times)
            if start < now and end <= now - times.delay_seconds:
                due.append((one, HostWindow(one.host, start, end)))
        if not due:
            return (), ()
        try:
            loads = self.observer.loads({wanted for _, wanted in due})
        except MonitorError:
            return (), ()  # the next cycle asks again
        return tuple(
            Window(one, (wanted.start, wanted.end), loads.samples[wanted])
            for one, wanted in due
            if wanted in loads.samples
        ), loads.warnings

    def failed(self, sentence: str, now: float) -> Report:
        """The report of a turn that came to nothing, which is written down as well."""
        memory = self._recall(now, ())
        known = self._standing(memory, now)
        self.accounts.keep_up(memory.watched, (), None)
        cycle = next_cycle(now, CycleResult.FAILED, sentence, memory.newest_cycle)
        committed = self.store.commit(Changes(cycle=cycle, brake=known.brake if known.pulled else None), now)
        return Report(
            result=CycleResult.FAILED,
            sentence=sentence,
            drains=memory.orders.drains,
            predictions=committed.open_predictions,
            unsettled=self.accounts.unsettled(memory.watched),
            standing=known,
            broken=memory.broken,
        )


def _known(seen: Snapshot) -> tuple[str, ...]:
    return tuple(host.name for host in seen.hosts)


def recall(store: Store, policy: Policy, times: SampleTimes, now: float, hosts: Collection[str]) -> Memory:
    """All that is remembered and that matters to a look at ``now`` at the group of the store.

    ``hosts``: those that it has now.
    """
    rests = max(policy.rest_seconds, policy.rest_max_seconds)
    memory = store.recall(
        moved_since=now - rests,
        ended_since=remembered_since(now, times),
        judged_since=_judged_since(policy, now),
    )
    drains = of_group(memory.orders.drains, store.group, store.groups, hosts)
    return replace(memory, orders=replace(memory.orders, drains=drains))


def _judged_since(policy: Policy, now: float) -> float:
    """Since when migrations and predictions count for the brake."""
    return now - max(policy.brake.window_seconds, LONGEST_GAP_SECONDS)


def with_memory(seen: Snapshot, memory: Memory, policy: Policy, times: SampleTimes, now: float) -> Snapshot:
    """The group with all that is remembered of it, as a cycle would plan with it now. Writes nothing."""
    situation = Situation(now=now, seen=seen, memory=memory, policy=policy, times=times)
    return bring_up_to_date(situation).snapshot


def _report(decision: Decision, seen: Observation, situation: Situation, committed: Committed) -> Report:
    known, memory = decision.up_to_date, situation.memory
    return Report(
        result=decision.result,
        sentence=decision.sentence,
        observation=replace(seen, snapshot=known.seen),
        plan=decision.plan,
        backoffs=known.backoffs,
        drains=memory.orders.drains,
        measured=known.measured,
        predictions=committed.open_predictions,
        unsettled=situation.unsettled,
        standing=situation.standing,
        others=decision.changes.look.changes if decision.changes.look else (),
        broken=memory.broken,
    )
