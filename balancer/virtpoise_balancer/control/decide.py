"""What a cycle does, as a pure function of what it saw and what it remembers. Reads and writes nothing.

Situation ──▶ bring_up_to_date ──▶ UpToDate ──▶ decide ──▶ Decision: a sentence, a plan, and what is to be written
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Set
from dataclasses import dataclass, field, replace
from enum import StrEnum

from virtpoise_balancer.analyse.backoff import (
    Backoff,
    after_changes,
    after_order,
    after_plan,
    relieved,
    with_backoffs,
)
from virtpoise_balancer.analyse.commitments import shows_from, with_commitments, with_migrating
from virtpoise_balancer.analyse.drains import with_drains
from virtpoise_balancer.analyse.facts import with_facts
from virtpoise_balancer.analyse.learned import attempts_after_orders, with_learned
from virtpoise_balancer.analyse.measure import DuePrediction, Measured, measure
from virtpoise_balancer.analyse.membership import with_shared
from virtpoise_balancer.analyse.others import as_commitments, compare, counting, with_moved
from virtpoise_balancer.analyse.reserve import with_reserve
from virtpoise_balancer.analyse.silence import Silence, with_silence
from virtpoise_balancer.analyse.unsettled import with_unsettled
from virtpoise_balancer.control import sentences
from virtpoise_balancer.control.acting import Standing
from virtpoise_balancer.control.sentences import UnderWay
from virtpoise_balancer.knowledge.records import Changes, Look, Memory, NewCycle, NewestCycle, NewPlan
from virtpoise_balancer.model import Move, Plan, Policy, Refusal, SampleTimes, Snapshot, Unsettled
from virtpoise_balancer.plan import plan as make_plan
from virtpoise_balancer.plan.recheck import obstacle
from virtpoise_balancer.plan.stream import full, replaceable
from virtpoise_balancer.plan.subset import Choice, choice_of, part, why_not_alone

# How long a stored recommendation stands for those after it that solve the same problems.
_RENEWED_SECONDS = 3600.0
# How many sources with waiting moves are planned again on their own in one cycle.
_MOST_ANEW = 3


class CycleResult(StrEnum):
    """What a cycle came to, in one word; the label of its metric."""

    IDLE = "idle"
    RECOMMENDED = "recommended"
    MOVED = "moved"
    WAITING = "waiting"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Window:
    """A prediction whose window has passed, the window, and the host's load samples in it: (Unix seconds, ratio)."""

    due: DuePrediction
    window: tuple[float, float]
    samples: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """All that a cycle decides on.

    ``seen``: the group as Prometheus has it. ``silence``: which hosts do not answer the balancer. ``unsettled``:
    domains that keep all action off their hosts. ``standing``: whether plans are carried out without a person's
    approval. ``acts``: whether moves are made, by order or without. ``busy``: moves of earlier plans are still being
    made. ``in_flight``: its migrations under way. ``twice``: uuids of domains that are seen on several hosts. ``look``:
    what is seen, compared with the look before; only where a whole cycle is decided. ``times``: of the samples of
    ``seen``. ``shared``: hosts that another group has as well, and why nothing is done with them.
    """

    now: float
    seen: Snapshot
    memory: Memory
    policy: Policy
    times: SampleTimes
    windows: tuple[Window, ...] = ()
    silence: Silence = field(default_factory=Silence)
    shared: Mapping[str, str] = field(default_factory=dict)
    unsettled: tuple[Unsettled, ...] = ()
    standing: Standing = field(default_factory=Standing)
    acts: bool = True
    busy: bool = False
    in_flight: tuple[UnderWay, ...] = ()
    twice: frozenset[str] = frozenset()
    look: Look | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UpToDate:
    """What is known now. ``snapshot`` holds all of it, so that it alone decides the plan. ``changes``: to be written.

    ``seen``: the same without the moves that the figures do not show yet. ``backoffs``: by host.
    """

    seen: Snapshot
    snapshot: Snapshot
    backoffs: Mapping[str, Backoff]
    measured: tuple[tuple[DuePrediction, Measured], ...]
    changes: Changes


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a cycle came to.

    ``plan`` is None while all wait for migrations under way. ``carry_out``: its moves are to be made. ``withdrawn``:
    uuids of domains whose earlier moves must not begin any more, since the plan relieves their hosts at once.
    """

    result: CycleResult
    sentence: str
    up_to_date: UpToDate
    plan: Plan | None = None
    carry_out: bool = False
    withdrawn: frozenset[str] = frozenset()
    changes: Changes = field(default_factory=Changes)


def decide(situation: Situation) -> Decision:
    """The whole decision of one cycle.

    Moves that wait for their turn at a destination are replaced where other moves solve the same at once.
    """
    situation = _compared(situation)
    if not situation.acts or waits_for_all(situation):
        return _decide(situation)
    commitments = situation.memory.commitments
    waiting = replaceable(commitments, situation.policy.limits)
    for sources in _together_and_alone(waiting):
        withdrawn = frozenset(one.uuid for source in sources for one in waiting[source])
        kept = tuple(one for one in commitments if not (one.waits and one.uuid in withdrawn))
        decision = _decide(replace(situation, memory=replace(situation.memory, commitments=kept)))
        if decision.plan is not None and _relieves(decision.plan, sources, full(kept, situation.policy.limits)):
            return replace(decision, withdrawn=withdrawn)
    return _decide(situation)


def _together_and_alone(sources: Collection[str]) -> list[tuple[str, ...]]:
    """The sources that are planned again in each trial: all, then some alone."""
    alone: list[tuple[str, ...]] = [(source,) for source in sources]
    return [tuple(sources), *alone[:_MOST_ANEW]] if len(alone) > 1 else alone


def _relieves(plan: Plan, sources: Collection[str], avoided: Set[str]) -> bool:
    """Whether the plan solves all these hosts by moves to hosts that are not to be avoided."""
    solved = {attempt.host for attempt in plan.attempts if attempt.solved}
    moves = [move for move in plan.moves if move.source in sources]
    return solved.issuperset(sources) and not any(move.destination in avoided for move in moves)


def with_begun(situation: Situation, uuids: Set[str]) -> Situation:
    """The situation in which these domains' moves wait no more, but have begun."""
    commitments = tuple(
        replace(one, began=situation.now) if one.waits and one.uuid in uuids else one
        for one in situation.memory.commitments
    )
    return replace(situation, memory=replace(situation.memory, commitments=commitments))


def _decide(situation: Situation) -> Decision:
    """What the cycle does and writes. ``situation``: what others changed is in it."""
    known = bring_up_to_date(situation)
    waiting = sentences.under_way(situation.in_flight, _waiting(situation))
    if waits_for_all(situation):
        return _decision(situation, known, CycleResult.WAITING, f"{waiting}; no new plan until all have ended")
    plan = make_plan(known.snapshot, situation.policy)
    sentence = sentences.with_unknown(plan.summary, known.snapshot)
    if situation.busy:
        sentence = f"{waiting}; {sentence}"
    if not plan.attempts:
        result = CycleResult.IDLE if plan.solved and not situation.busy else CycleResult.WAITING
        return _decision(situation, known, result, sentence, plan, acted=False)
    if not plan.moves:  # the attempt has ended by being made, and earns its penalty
        return _decision(situation, known, CycleResult.IDLE, sentence, plan, acted=True)
    if not situation.acts:
        return _decision(situation, known, CycleResult.RECOMMENDED, sentence, plan, acted=False)
    return _decision(situation, known, CycleResult.MOVED, sentence, plan, acted=True)


def _compared(situation: Situation) -> Situation:
    """The situation with what others changed since the look before."""
    memory = situation.memory
    doubtful = situation.twice | {one.uuid for one in situation.unsettled}
    ours = (*memory.commitments, *memory.track_record.migrations)
    seen_at = situation.now - situation.times.delay_seconds
    found = compare(memory.sightings, situation.seen, ours, seen_at, doubtful, memory.others)
    same = memory.sightings is not None and replace(found.sightings, at=memory.sightings.at) == memory.sightings
    return replace(
        situation,
        memory=replace(memory, others=(*memory.others, *found.changes)),
        look=Look(sightings=found.sightings, changes=found.changes, same=same),
    )


def waits_for_all(situation: Situation) -> bool:
    """Whether no host is judged now, since moves are under way. For most strategies only the hosts concerned wait."""
    return situation.busy and situation.policy.traits.one_at_a_time


def _waiting(situation: Situation) -> int:
    """How many journalled moves have not begun."""
    return sum(one.waits for one in situation.memory.commitments)


def why_not_now(situation: Situation, move: Move, *, ordered: bool) -> str | None:
    """Why a move that was planned must not begin now, or None.

    ``situation``: its snapshot holds the hosts that the move concerns. ``ordered``: a person chose the move, so the
    mode does not matter.
    """
    if paused := situation.memory.orders.overrides.paused:
        return f"paused by {paused.who}"
    if not ordered and situation.standing.held:
        return situation.standing.held
    others = tuple(one for one in situation.memory.commitments if one.uuid != move.uuid)
    known = bring_up_to_date(replace(situation, memory=replace(situation.memory, commitments=others)), waiting=False)
    why = obstacle(move, known.snapshot, situation.policy)
    if why is None:  # a look at two hosts does not show what a third one claims
        why = next((one.text for one in situation.unsettled if one.uuid == move.uuid and one.unaccounted), None)
    return sentences.refused(why, move) if isinstance(why, Refusal) else why


def decide_on_order(situation: Situation, wanted: Set[Choice]) -> tuple[Decision, Plan] | str:
    """The decision to make the moves that a person chose from a plan, with these moves as a plan; or why they cannot be
    made.

    The plan is made again, and all chosen moves must still be in it.
    """
    if waits_for_all(situation):
        return f"{sentences.under_way(situation.in_flight, _waiting(situation))}; no new plan until all have ended"
    known = bring_up_to_date(situation)
    plan = make_plan(known.snapshot, situation.policy)
    gone = wanted - {choice_of(move) for move in plan.moves}
    if gone:
        return sentences.out_of_date(gone, known.snapshot, plan.summary)
    if why := why_not_alone(plan, wanted):
        return f"only together: {why}"
    chosen = part(plan, wanted, known.snapshot, situation.policy)
    sentence = sentences.with_unknown(chosen.summary, known.snapshot)
    decision = _decision(situation, known, CycleResult.MOVED, sentence, chosen, acted=True, wanted=frozenset(wanted))
    return decision, chosen


def bring_up_to_date(situation: Situation, *, waiting: bool = True) -> UpToDate:
    """The snapshot with all that is remembered, after the plans that ended, the orders and the samples since.

    ``waiting``: moves that wait for their beginning count as well.
    """
    memory = situation.memory
    known = with_facts(with_reserve(situation.seen, situation.policy), memory.facts)
    ours = with_shared(known, situation.shared)
    heard = with_silence(ours, situation.silence, acts=situation.acts)
    unsettled = (*situation.unsettled, *memory.elsewhere)
    marked = with_drains(with_unsettled(heard, unsettled), memory.orders.drains)
    backoffs = _backoffs(situation, marked)
    measured = tuple(
        (one.due, measure(one.due, one.window, one.samples, marked.step_seconds)) for one in situation.windows
    )
    attempts = attempts_after_orders(memory.learned.attempts, marked, memory.orders.drains)
    moved = with_moved(memory.learned.moved, memory.others)
    seen = with_learned(with_backoffs(marked, backoffs), replace(memory.learned, attempts=attempts, moved=moved))
    commitments = (*memory.commitments, *as_commitments(memory.others))
    return UpToDate(
        seen=with_migrating(seen, memory.commitments),
        snapshot=with_commitments(seen, commitments, situation.times, waiting=waiting),
        backoffs=backoffs,
        measured=measured,
        changes=Changes(
            settled=tuple(ended.id for ended in memory.ended_plans),
            backoffs=tuple(backoff for host, backoff in backoffs.items() if backoff != memory.backoffs.get(host)),
            verdicts={due.id: verdict for due, verdict in measured},
        ),
    )


def gist_of(plan: Plan) -> str:
    """Equal for plans that solve the same problems and leave the same ones.

    Moves and predicted loads do not count: among many hosts that would do, noise picks other ones in each cycle.
    """
    wants = {
        "attempts": sorted((attempt.host, attempt.problem, attempt.solved) for attempt in plan.attempts),
        "held": sorted({(refusal.host or "", refusal.reason) for refusal in plan.refusals if refusal.domain is None}),
        "solved": plan.solved,
    }
    return hashlib.sha256(json.dumps(wants).encode()).hexdigest()


def next_cycle(now: float, result: CycleResult, sentence: str, newest: NewestCycle | None) -> NewCycle:
    """The cycle as it is written down: it extends the newest row when it came to the same."""
    gist = sentences.gist(sentence)
    same = newest is not None and (newest.result, newest.gist) == (result, gist)
    return NewCycle(
        at=now, result=result, sentence=sentence, gist=gist, extends=newest.id if newest is not None and same else None
    )


def _decision(
    situation: Situation,
    known: UpToDate,
    result: CycleResult,
    sentence: str,
    plan: Plan | None = None,
    *,
    acted: bool = False,
    wanted: frozenset[Choice] | None = None,
) -> Decision:
    memory, standing = situation.memory, situation.standing
    changes = situation.look.changes if situation.look else ()
    sentence = sentences.with_others(f"{standing.prefix}{sentence}", changes)
    return Decision(
        result=result,
        sentence=sentence,
        up_to_date=known,
        plan=plan,
        carry_out=acted and plan is not None and bool(plan.moves),
        changes=replace(
            known.changes,
            plan=None if plan is None else _to_be_stored(situation, known.snapshot, plan, acted=acted, wanted=wanted),
            look=situation.look,
            brake=standing.brake if standing.pulled else None,
            cycle=next_cycle(situation.now, result, sentence, memory.newest_cycle),
        ),
    )


def _to_be_stored(
    situation: Situation, snapshot: Snapshot, plan: Plan, *, acted: bool, wanted: frozenset[Choice] | None
) -> NewPlan | None:
    """The plan as it is stored; None if it finds no problem, or is the one that still waits.

    One that waits is stored again when it has waited for an hour, since its moves may have become others.
    """
    if plan.solved and not plan.attempts:
        return None
    gist, newest = gist_of(plan), situation.memory.newest_plan
    if (
        not acted
        and newest is not None
        and (newest.acted, newest.gist) == (False, gist)
        and situation.now - newest.made < _RENEWED_SECONDS
    ):
        return None
    return NewPlan(plan=plan, gist=gist, acted=acted, snapshot=snapshot, policy=situation.policy, wanted=wanted)


def _backoffs(situation: Situation, marked: Snapshot) -> dict[str, Backoff]:
    """The back-off of each host after this cycle. ``marked``: the snapshot with its draining hosts marked."""
    memory, policy = situation.memory, situation.policy
    backoffs = dict(memory.backoffs)
    alone = policy.traits.one_at_a_time
    names = [host.name for host in marked.hosts] if alone else []
    for ended in memory.ended_plans:
        backoffs |= after_plan(
            backoffs,
            names,
            ended.plan,
            ended.results if alone else ended.without_refused,
            ended=ended.ended,
            counted_from=shows_from(ended.ended, situation.times),
            penalty=policy.penalty,
            second_try=policy.traits.second_try,
        )
    ours = () if alone else memory.commitments
    backoffs |= after_changes(backoffs, [*ours, *counting(memory.others)], situation.times)
    drains = memory.orders.drains
    backoffs = {name: after_order(backoff, drains.get(name)) for name, backoff in backoffs.items()}
    for host in marked.hosts:
        if host.name in backoffs:
            backoffs[host.name] = relieved(backoffs[host.name], host, marked, policy)
    return backoffs
