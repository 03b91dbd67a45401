"""The sentences of a cycle that are not a plan's own. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence, Set
from typing import Protocol

from virtpoise_balancer.analyse.others import ChangeKind, OthersChange
from virtpoise_balancer.explain import wording
from virtpoise_balancer.model import HostState, Move, Progress, Refusal, Snapshot
from virtpoise_balancer.plan.subset import Choice

_MOST_CHANGES = 3  # named in a sentence
# A figure: one or more numbers with their units, such as "90%" or "2 min 5 s". The digits of a name such as h1 are
# none.
_UNIT = r"(?:%|(?:ms|s|min|h|d|[KMGT]iB|B|(?:consecutive )?samples?)\b)"
_FIGURE = re.compile(rf"(?<![\w.-])-?\d+(?:\.\d+)?\s?{_UNIT}(?:\s\d+(?:\.\d+)?\s?{_UNIT})*")


class UnderWay(Protocol):
    """A migration under way. ``progress`` is None until libvirt has reported any."""

    @property
    def move(self) -> Move: ...

    @property
    def progress(self) -> Progress | None: ...


def gist(sentence: str) -> str:
    """The sentence without its figures: equal for cycles that came to the same."""
    return _FIGURE.sub("#", sentence)


def under_way(in_flight: Sequence[UnderWay], waiting: int) -> str:
    """What is being migrated, and how many further moves wait for their beginning."""
    parts = []
    for flight in in_flight:
        text = f"{flight.move.domain} from {flight.move.source} to {flight.move.destination}"
        if flight.progress and (done := flight.progress.copied_ratio) is not None:
            dirtied = wording.dirtied(flight.progress.dirty_bytes_per_second)
            dirtied += wording.throttled(flight.progress.throttle_ratio)
            disks = wording.with_disks(flight.progress.disk_bytes)
            text += f" ({done:.0%}{disks}, {flight.progress.elapsed_seconds:.0f} s{dirtied})"
        parts.append(text)
    later = f"{waiting} more {'move waits' if waiting == 1 else 'moves wait'}" if waiting else ""
    return ", ".join(filter(None, (f"migrating {', '.join(parts)}" if parts else "", later))) or "moves are being made"


def with_unknown(sentence: str, snapshot: Snapshot) -> str:
    """The sentence with the hosts named that are unknown."""
    if not snapshot.hosts:
        return "no host is scraped: nothing to do"
    unknown = [host.name for host in snapshot.hosts if host.state is HostState.UNKNOWN]
    return f"{sentence}; unknown: {', '.join(unknown)}" if unknown else sentence


def with_others(sentence: str, changes: Sequence[OthersChange]) -> str:
    """The sentence with what others have changed."""
    if not changes:
        return sentence
    more = f" and {len(changes) - _MOST_CHANGES} more" if len(changes) > _MOST_CHANGES else ""
    return f"{sentence}; changed by others: {', '.join(change(one) for one in changes[:_MOST_CHANGES])}{more}"


def change(one: OthersChange) -> str:
    """A change by others in words: "a was migrated from h1 to h2"."""
    match one.kind:
        case ChangeKind.MIGRATED:
            return f"{one.domain} was migrated from {one.source} to {one.destination}"
        case ChangeKind.STARTED:
            return f"{one.domain} was started on {one.destination}"
        case ChangeKind.STOPPED:
            return f"{one.domain} was stopped on {one.source}"


def refused(why: Refusal, move: Move) -> str:
    """Why a move that was planned does not begin: the planner's own reason."""
    place = "" if why.host == move.source else f"{why.host or move.destination}: "
    return f"{move.domain} no longer fits: {place}{wording.refusal(why)}"


def out_of_date(gone: Set[Choice], snapshot: Snapshot, summary: str) -> str:
    """Why moves that a person chose cannot be made: they are not in the plan any more."""
    names = {domain.uuid: domain.name for domain in snapshot.domains}
    moves = sorted(f"{names.get(uuid, uuid)} to {destination}" for uuid, destination in gone)
    return f"out of date: the plan no longer has {', '.join(moves)}; now {summary}"
