"""Which journalled moves may begin now, and which cannot be made any more. Pure; the executor only does what follows
from it.

A move begins when the moves that make room on its destination are done, and the limits in flight allow it. It waits for
no other move. Plans take turns: a long one does not keep a later one back.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from enum import StrEnum

from virtpoise_balancer.analyse.commitments import Commitment
from virtpoise_balancer.model import Limits, Move, Policy


class Stage(StrEnum):
    """How far a move of the stream has come."""

    WAITING = "waiting"
    BEGUN = "begun"
    DONE = "done"
    UNDONE = "undone"  # skipped, failed, or without a known end


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One journalled move.

    ``id``: in the journal. ``plan``: the number of its plan; the moves that it needs are of the same.
    """

    id: int
    plan: int
    move: Move
    stage: Stage = Stage.WAITING

    @property
    def ended(self) -> bool:
        return self.stage in (Stage.DONE, Stage.UNDONE)


# A migration's source and destination.
HostPair = tuple[str, str]


def limits_of(policy: Policy) -> Limits:
    """How many migrations may be under way at once."""
    return Limits(total=1) if policy.traits.one_at_a_time else policy.limits


def hopeless(items: Iterable[Item]) -> dict[int, Move]:
    """By the id of each waiting move that cannot be made any more, the move that it needs and that was not made."""
    items = tuple(items)
    undone = {(one.plan, one.move.uuid): one.move for one in items if one.stage is Stage.UNDONE}
    found = {}
    for one in items:
        missing = next((undone[one.plan, uuid] for uuid in one.move.needs if (one.plan, uuid) in undone), None)
        if one.stage is Stage.WAITING and missing is not None:
            found[one.id] = missing
    return found


def counts_on(missing: Move) -> str:
    """Why a move is hopeless, for the journal. ``missing``: the move that it needs."""
    return f"{missing.domain} had to leave {missing.source} first, and did not"


def withdrawable(items: Iterable[Item], uuids: Set[str]) -> tuple[Item, ...]:
    """The moves of these domains that have not ended, if each domain has one and all of them wait; else none."""
    ours = tuple(one for one in items if one.move.uuid in uuids and not one.ended)
    all_wait = {one.move.uuid for one in ours} == uuids and all(one.stage is Stage.WAITING for one in ours)
    return ours if all_wait else ()


def ready(items: Iterable[Item], limits: Limits, others: Sequence[HostPair] = ()) -> tuple[int, ...]:
    """The ids of the waiting moves that may begin now, all at once.

    ``others``: migrations under way that are not among them.
    """
    items = tuple(items)
    by_need = {(one.plan, one.move.uuid): one for one in items}
    cannot = hopeless(items)
    under_way = [*others, *((one.move.source, one.move.destination) for one in items if one.stage is Stage.BEGUN)]
    leaving, arriving = Counter(source for source, _ in under_way), Counter(destination for _, destination in under_way)
    total = len(under_way)
    begun = Counter(one.plan for one in items if one.stage is not Stage.WAITING)
    open_ones = [
        one
        for one in items
        if one.stage is Stage.WAITING
        and one.id not in cannot
        and all(
            maker.stage is Stage.DONE
            for uuid in one.move.needs
            if (maker := by_need.get((one.plan, uuid))) is not None and maker.move.source == one.move.destination
        )
    ]
    found = []
    while open_ones and total < limits.total:
        open_ones = [
            one
            for one in open_ones
            if leaving[one.move.source] < limits.per_source and arriving[one.move.destination] < limits.per_destination
        ]
        if not open_ones:
            break
        turn = min(open_ones, key=lambda one: (begun[one.plan], one.plan, one.id))
        open_ones.remove(turn)
        found.append(turn.id)
        leaving[turn.move.source] += 1
        arriving[turn.move.destination] += 1
        begun[turn.plan] += 1
        total += 1
    return tuple(found)


def full(commitments: Collection[Commitment], limits: Limits) -> frozenset[str]:
    """The hosts where a further move would have to wait: as many arrive as may at once, or another waits already."""
    arriving = Counter(one.destination for one in commitments if one.is_open)
    return frozenset(
        {host for host, count in arriving.items() if count >= limits.per_destination}
        | {one.destination for one in commitments if one.waits}
    )


def replaceable(commitments: Collection[Commitment], limits: Limits) -> Mapping[str, tuple[Commitment, ...]]:
    """By source, its waiting moves, where one of them waits for its turn at a destination and all may be planned again.

    They may not while anything else is on its way from or to the source, or where another waiting move may make room
    for them.
    """
    going = [one for one in commitments if one.is_open]
    if len(going) >= limits.total:
        return {}
    busy = full(going, limits)
    waiting: dict[str, list[Commitment]] = defaultdict(list)
    for one in commitments:
        if one.waits:
            waiting[one.source].append(one)
    concerned = {host for one in going for host in one.hosts} | {one.destination for one in commitments if one.waits}
    return {
        source: tuple(moves)
        for source, moves in sorted(waiting.items())
        if source not in concerned
        and any(one.destination in busy for one in moves)
        and not any(one.destination in waiting for one in moves)
    }
