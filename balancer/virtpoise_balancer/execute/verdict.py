"""The end of a migration as the world has it: a pure function of what its source, its destination and the other hosts
answered.

After a migration was asked for, only the world decides: no error of the request is an end, and nothing is an end while
a job may still run. What this cannot decide now is asked again in the next cycle.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from virtpoise_balancer.execute.facts import Presence
from virtpoise_balancer.model import JournalEntry, Progress, Result, UnsettledKind

# How long after its beginning a migration may still begin, where no answer to the request was seen.
LATE_SECONDS = 30.0

# How many silent hosts a reason names.
_MOST_NAMED = 3

# Active, and not between two hosts.
SETTLED = (Presence.RUNNING, Presence.PAUSED)
ACTIVE = (*SETTLED, Presence.MIGRATING, Presence.TORN)


@dataclass(frozen=True, slots=True)
class Silent:
    """A host did not answer."""

    why: str


Answer = Presence | Silent


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """How the migration ended. ``places``: where the domain is, in words.

    ``lost``: it is active on no host, and no one seems to have meant that. ``leftover``: its old definition is still on
    the source. ``elsewhere``: it is active, and not on the destination. ``shut_off``: it failed since the domain was
    shut off or destroyed on the source.
    """

    result: Result
    places: str
    lost: bool = False
    leftover: bool = False
    elsewhere: bool = False
    shut_off: bool = False


@dataclass(frozen=True, slots=True)
class Arrived:
    """The domain waits on its destination to be started, and its source cannot start it any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StillOpen:
    """The end is not known. ``hosts``: those that must be left alone. ``text`` completes "h1 is unknown: ".

    ``running``: where it runs, if that is on more than one host.
    """

    kind: UnsettledKind
    hosts: tuple[str, ...]
    text: str
    progress: Progress | None = None
    silent: bool = False  # a host did not answer
    running: tuple[str, ...] = ()


def reconcile(
    entry: JournalEntry,
    job: Progress | Silent | None,
    here: Answer,
    there: Answer,
    others: Mapping[str, Answer],
    now: float,
    *,
    spent: bool = False,
) -> Verdict | StillOpen | Arrived:
    """What became of an entry that has begun.

    ``job``: the domain's job on the source, asked before the rest. ``here``, ``there``: how the domain stands on the
    source and the destination. ``others``: on all other hosts of the group; needed only where neither end has it
    active. ``spent``: the request cannot begin it any more.
    """
    move = entry.move
    ends = {move.source: here, move.destination: there}
    name = f"the migration of {move.domain} from {move.source} to {move.destination}"
    places = ", ".join(f"{answer} on {host}" for host, answer in ends.items() if isinstance(answer, Presence))
    is_torn = Presence.TORN in (here, there)
    if isinstance(job, Progress) and not is_torn:  # of a torn one libvirt keeps the job, for who resumes it
        how = " and has been switched to post-copy: nothing can abort it" if job.switched else ""
        return _open(entry, UnsettledKind.MIGRATING, f"{name} is still under way{how}", progress=job)
    known = ends | dict(others)
    active = [host for host, answer in known.items() if answer in SETTLED]
    if len(active) > 1:
        return StillOpen(
            kind=UnsettledKind.TWICE,
            hosts=tuple(dict.fromkeys((*ends, *active))),
            text=f"{move.domain} is active on {' and '.join(active)} at once, since {name}",
            running=tuple(host for host in active if known[host] is Presence.RUNNING),
        )
    if is_torn:
        text = f"{name} broke after the switch to post-copy: {places}. Each host may have a part of its memory"
        return _open(entry, UnsettledKind.BETWEEN, text)
    for answer in (job, here, there):
        if isinstance(answer, Silent):
            return _open(entry, UnsettledKind.UNKNOWN, f"{name} has no known end: {answer.why}", silent=True)
    if entry.is_open and entry.left_from is None and (why := _may_be_old(entry, here, there)):
        return _open(entry, UnsettledKind.WAITING, why)
    if there is Presence.PAUSED and entry.is_open and entry.left_from is None:  # no job could start it on the source
        return Arrived()
    if Presence.MIGRATING in (here, there):
        runs = here in SETTLED or there in SETTLED
        kind = UnsettledKind.UNKNOWN if runs else UnsettledKind.BETWEEN
        return _open(entry, kind, f"{name} has no known end: {places}")
    if there in SETTLED:
        return Verdict(result=Result.DONE, places=places, leftover=here is not Presence.ABSENT)
    if here in SETTLED:
        if not spent and now - (entry.began or now) < LATE_SECONDS:
            return _open(entry, UnsettledKind.MIGRATING, f"{name} may still begin")
        return Verdict(result=Result.FAILED, places=places, elsewhere=True)
    return _away(entry, here, there, others, places)


def _may_be_old(entry: JournalEntry, here: Answer, there: Answer) -> str | None:
    """That the only copy left is paused and may be older than its disks, so that only a person resumes it; or None."""
    move = entry.move
    choose = "its disks may have gone on without this copy, so only a person resumes it"
    if entry.doubled and Presence.PAUSED in (here, there):
        where = move.destination if there is Presence.PAUSED else move.source
        return f"{move.domain} was active on two hosts at once, and is now paused on {where} alone; {choose}"
    if there is Presence.PAUSED and here in (Presence.SHUT_OFF, Presence.DESTROYED):
        return f"{move.domain} is {here} on {move.source}, and paused on {move.destination}; {choose}"
    return None


def _away(entry: JournalEntry, here: Answer, there: Answer, others: Mapping[str, Answer], places: str) -> Verdict:
    """The verdict where the domain is active on neither end."""
    went_on = entry.left_from == entry.move.destination
    result = Result.DONE if went_on else Result.FAILED
    elsewhere = [host for host, answer in others.items() if answer in ACTIVE]
    if elsewhere:
        places = f"{places}, {others[elsewhere[0]]} on {elsewhere[0]}"
        return Verdict(result=result, places=places, elsewhere=True)
    if went_on:  # where it is now is for its next migration to say
        return Verdict(result=Result.DONE, places=places)
    if here is Presence.ABSENT and there in (Presence.SHUT_OFF, Presence.DESTROYED):
        return Verdict(result=Result.DONE, places=f"{places} since")
    if here is Presence.SHUT_OFF:  # a definition that was on the destination before says nothing
        return Verdict(result=Result.FAILED, places=places, shut_off=True)
    if here is there is Presence.ABSENT:
        for host, answer in others.items():
            if answer in (Presence.SHUT_OFF, Presence.DESTROYED):
                return Verdict(result=Result.FAILED, places=f"{places}, {answer} on {host}")
    silent = [host for host, answer in others.items() if isinstance(answer, Silent)]
    unheard = f"; no answer from {', '.join(silent[:_MOST_NAMED])}" if silent else ""
    if len(silent) > _MOST_NAMED:
        unheard += f" and {len(silent) - _MOST_NAMED} more"
    shut_off = here is Presence.DESTROYED
    return Verdict(result=Result.FAILED, places=f"{places}, active on no host{unheard}", lost=True, shut_off=shut_off)


def stale_copy(entry: JournalEntry, running: tuple[str, ...], *, started: bool | None) -> str | None:
    """The host whose copy of a domain that runs on both ends of its migration is stale, by the journal, or None.

    ``started``: whether the domain was started on the destination for this entry, which is done only after its source
    has given it up; None where that is not known, as after a restart.
    """
    move = entry.move
    if set(running) != {move.source, move.destination} or (started is None and entry.result is not Result.FAILED):
        return None
    return move.source if started else move.destination


def may_be_elsewhere(here: Answer, there: Answer) -> bool:
    """Whether both ends answer and the domain runs on neither, so that the other hosts are to be asked: what is paused
    on the destination may have been left there, and the domain have been migrated on from its source by others.
    """
    here_active, there_active = (isinstance(answer, Silent) or answer in ACTIVE for answer in (here, there))
    return not here_active and (not there_active or there is Presence.PAUSED)


def _open(
    entry: JournalEntry, kind: UnsettledKind, text: str, progress: Progress | None = None, *, silent: bool = False
) -> StillOpen:
    hosts = (entry.move.source, entry.move.destination)
    return StillOpen(kind=kind, hosts=hosts, text=text, progress=progress, silent=silent)
