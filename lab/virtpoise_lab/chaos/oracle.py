"""Judges a run by what was seen from outside: the state in libvirt and QEMU, the journal, the alerts. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from virtpoise_lab.chaos.asked import Places, active
from virtpoise_lab.chaos.plan import Plan
from virtpoise_lab.chaos.truth import States
from virtpoise_lab.floors import Entry, replayed

TWICE, LOST, NOT_STARTED = "VirtpoiseDomainRunningTwice", "VirtpoiseDomainVanished", "VirtpoiseDomainNotStarted"
BETWEEN = "VirtpoiseDomainBetweenHosts"
# Each of these calls for a person on account of a host.
_HOST = {"VirtpoiseHostUnknown", "VirtpoiseLibvirtUnreachable", "VirtpoiseLibvirtSilent"}
_DOWN = {"VirtpoiseBalancerDown", "VirtpoiseNoLeader", "VirtpoiseCyclesStalled"}
# Faults for which such an alert must come, and whom it must name: the host's part in ``Facts.ends``, or "" for no host.
NAMED: Mapping[str, str] = {
    "source-stopped": "source",
    "destination-stopped": "destination",
    "bystander-stopped": "bystander",
    "source-daemon-killed": "source",
    "destination-daemon-killed": "destination",
    "emptiest-daemon-killed": "emptiest",
    "source-rebooted": "source",
    "destination-rebooted": "destination",
    "exporter-gone": "source",
    "exporter-stuck": "destination",
    "exporter-empty": "changed",
    "exporter-miscounting": "changed",
    "exporter-lying": "changed",
    "exporter-twofold": "destination",
    "balancer-killed": "",
    "balancer-ended": "",
    "balancer-stopped": "",
    "postgresql-restarted": "",
}
# An alert for 5 min waits 10 s here. It is expected of faults that last longer than that and all detection.
ALERTED_SECONDS = 27.0
# So long a domain stands paused on its one host before an alert must call for a person; a cycle, a scrape, and a
# thirtieth of a minute.
_PAUSED_SECONDS = 12.0
# Until then a plan may still choose a host that has fallen silent.
_HEARD_SECONDS = 15.0
# Cycles of 2 s go on, whatever a host does. These faults end the process, or keep a cycle waiting.
_MOST_BETWEEN_CYCLES_SECONDS = 12.0
_NO_CYCLES = (
    "prometheus-killed",
    "prometheus-stuck",
    "store-",
    "postgresql-",
    "balancer-killed",
    "balancer-ended",
    "balancer-stopped",
)
# By how much less than by the journal a migration may seem to take, and from when on that is judged.
_OLDEST_SLACK_SECONDS = 8.0
# Both run for longer than one look at each could mistake.
_TWICE_SECONDS = 0.3
# What a balancer of three hosts may have at any time of a run.
_MOST_THREADS, _MOST_DESCRIPTORS, _MOST_ASKING = 30, 80, 8


@dataclass(frozen=True)
class Held:
    """What a balancer's process holds: its threads and its descriptors. ``asking``: its children; each asks a host."""

    threads: int
    descriptors: int
    asking: int


@dataclass(frozen=True)
class Look:
    """What stands at one moment. ``alerts``: (name, host) of those that fire."""

    at: float
    places: Places
    entries: Sequence[Entry]
    alerts: frozenset[tuple[str, str]]


@dataclass
class Facts:
    """What was seen of a run.

    ``ends``: hosts by their part in the first migration or in the fault. ``touched``: domains that a person has moved
    or ended, as the fault; ``mended``: those that a person has set right afterwards.
    ``cycles``: when cycles have run; ``oldest``: when it was scraped, and how long the oldest migration had taken.
    ``after``: once all is as it must be five intervals after the fault, or that late; ``end``: once the task should be
    done. ``fired``: alerts until ``after``.
    """

    plan: Plan
    homes: Mapping[str, str]
    uuids: Mapping[str, str]
    room: Mapping[str, int]
    began: float = 0.0
    healed: float = 0.0
    ends: Mapping[str, str] = field(default_factory=dict)
    touched: set[str] = field(default_factory=set)
    mended: set[str] = field(default_factory=set)
    changes: Sequence[tuple[float, States]] = ()
    fired: frozenset[tuple[str, str]] = frozenset()
    cycles: Sequence[float] = ()
    oldest: Sequence[tuple[float, float]] = ()
    after: Look | None = None
    end: Look | None = None
    task_done: bool = False
    drained: str | None = None
    held: Held | None = None
    exits: list[int] = field(default_factory=list)
    died: list[str] = field(default_factory=list)
    tracebacks: list[str] = field(default_factory=list)


def judge(facts: Facts) -> list[str]:
    """What must not be, in words; empty for a good run."""
    found = [*_ran_twice(facts), *_process(facts), *_pushed_over(facts), *_alerted(facts), *_stood_paused(facts)]
    found += [*_unwritten(facts), *_to_the_silent(facts), *_stood_still(facts), *_begun_anew(facts)]
    if facts.after is not None:
        found += after_healing(facts, facts.after)
    if not facts.task_done:
        found.append(f"the task was not finished: {facts.plan.task}")
    if facts.end is not None:
        found += _at_end(facts, facts.end)
    return list(dict.fromkeys(found))


def _ran_twice(facts: Facts) -> Iterator[str]:
    for name in facts.homes:
        seconds, longest = 0.0, 0.0
        pairs = zip(facts.changes, facts.changes[1:], strict=False)
        for (at, states), (until, _) in pairs:
            running = sum(state == "running" for (domain, _), state in states.items() if domain == name)
            seconds = seconds + until - at if running > 1 else 0.0
            longest = max(longest, seconds)
        if longest > _TWICE_SECONDS:
            yield f"{name} ran on two hosts at once, for {longest:.1f} s"


def _process(facts: Facts) -> Iterator[str]:
    yield from facts.died
    for status in facts.exits:
        if status != 0:
            yield f"a balancer that was stopped ended with status {status}"
    for line in facts.tracebacks:
        yield f"a traceback in the balancer's log: {line}"
    if facts.held is not None and facts.held.threads > _MOST_THREADS:
        yield f"the balancer has {facts.held.threads} threads"
    if facts.held is not None and facts.held.descriptors > _MOST_DESCRIPTORS:
        yield f"the balancer has {facts.held.descriptors} descriptors"
    if facts.held is not None and facts.held.asking > _MOST_ASKING:
        yield f"the balancer has {facts.held.asking} processes that ask hosts"


def _pushed_over(facts: Facts) -> Iterator[str]:
    """A move of the balancer whose destination had no room for it below the threshold."""
    entries = facts.end.entries if facts.end else ()
    names = {uuid: name for name, uuid in facts.uuids.items()}
    for entry in entries:
        if entry.began is None or names[entry.uuid] in facts.touched | facts.mended:
            continue
        there = {
            domain
            for (domain, host), state in _at(facts.changes, entry.began).items()
            if host == entry.destination and state != "inmigrate"
        }
        coming = {
            names[other.uuid]
            for other in entries
            if other.destination == entry.destination and _open_at(other, entry.began)
        }
        guests = there | coming | {names[entry.uuid]}
        if len(guests) > facts.room.get(entry.destination, len(facts.homes)):
            yield f"{entry.destination} was pushed over its threshold by {names[entry.uuid]}: it then had {sorted(guests)}"


def _unwritten(facts: Facts) -> Iterator[str]:
    """A migration that began without its beginning in the journal."""
    entries = facts.end.entries if facts.end else ()
    known: set[tuple[str, str]] = set()
    for at, states in facts.changes:
        known &= set(states)
        for (name, host), state in states.items():
            if state != "inmigrate" or (name, host) in known:
                continue
            known.add((name, host))
            begun = [one.began for one in _of(entries, facts.uuids[name]) if one.destination == host]
            written = any(began is not None and began <= at for began in begun)
            if entries and not written and name not in facts.touched | facts.mended:
                yield f"a migration of {name} to {host} began that the journal does not have"


def _to_the_silent(facts: Facts) -> Iterator[str]:
    """A move that was planned to a host which had long been silent."""
    host = facts.ends.get(NAMED.get(facts.plan.fault, ""))
    for entry in facts.end.entries if facts.end else ():
        if entry.planned is None or entry.destination != host:
            continue
        if facts.began + _HEARD_SECONDS < entry.planned < facts.healed:
            yield f"a move to {host} was planned {entry.planned - facts.began:.0f} s after it had fallen silent"


def _stood_still(facts: Facts) -> Iterator[str]:
    """Cycles that waited for a host."""
    if facts.plan.fault.startswith(_NO_CYCLES):
        return
    moments = [facts.began, *(at for at in sorted(facts.cycles) if facts.began < at < facts.healed), facts.healed]
    longest = max(after - before for before, after in pairwise(moments))
    if longest > _MOST_BETWEEN_CYCLES_SECONDS:
        yield f"no cycle ended for {longest:.0f} s"


def _begun_anew(facts: Facts) -> Iterator[str]:
    """A migration that seemed to take less time than by the journal; alerts go by that figure."""
    entries = facts.end.entries if facts.end else ()
    for at, shown in facts.oldest:
        taken = max((at - (one.began or at) for one in entries if _open_at(one, at)), default=0.0)
        if 0 < shown < taken - _OLDEST_SLACK_SECONDS:
            yield f"the oldest migration had taken {taken:.0f} s, and {shown:.0f} s were shown"
            return


def _open_at(entry: Entry, at: float) -> bool:
    return entry.began is not None and entry.began <= at and (entry.ended is None or entry.ended > at)


def _at(changes: Sequence[tuple[float, States]], at: float) -> States:
    return next((states for since, states in reversed(changes) if since <= at), {})


def _alerted(facts: Facts) -> Iterator[str]:
    """A fault that lasts calls for a person."""
    plan = facts.plan
    if plan.fault not in NAMED or plan.seconds < ALERTED_SECONDS:
        return
    end = NAMED[plan.fault]
    if not end:
        if not {name for name, _ in facts.fired} & _DOWN:
            yield f"no balancer acted for {plan.seconds:g} s, and no alert fired"
        return
    host = facts.ends.get(end)
    if host is None or host == facts.drained:  # a host that is being drained is silent by intent
        return
    if not any(name in _HOST and of == host for name, of in facts.fired):
        yield f"{host} was silent for {plan.seconds:g} s, and no alert named it"


def _stood_paused(facts: Facts) -> Iterator[str]:
    """A domain that could not be started where it had arrived, and no alert."""
    if facts.plan.fault != "images-held" or NOT_STARTED in {name for name, _ in facts.fired}:
        return
    for name in set(facts.homes) - facts.touched:
        since = None
        for at, states in [*facts.changes, (facts.healed, {})]:
            paused = [state for (domain, _), state in states.items() if domain == name] == ["paused"]
            if since is not None and not paused and min(at, facts.healed) - since > _PAUSED_SECONDS:
                yield f"{name} stood paused where it had arrived for {at - since:.0f} s, and no alert fired"
                break
            since = (since or at) if paused else None


def after_healing(facts: Facts, look: Look) -> Iterator[str]:
    """Five intervals after the fault: what a person must see is shown, and nothing else is open."""
    firing = {name for name, _ in look.alerts}
    doubled = [name for name in facts.homes if len(active(look.places, name)) > 1 and not _busy(look.places, name)]
    lost = [name for name in facts.homes if _lost(facts, look, name)]
    if doubled and TWICE not in firing:
        yield f"{' and '.join(doubled)}: active on two hosts, and no alert says so"
    if not doubled and TWICE in firing:
        yield "no domain is active twice, and an alert says so"
    if lost and LOST not in firing:
        yield f"{' and '.join(lost)}: lost in a migration, and no alert says so"
    unsure = [name for name in facts.homes if len(active(look.places, name)) != 1 or _busy(look.places, name)]
    if not unsure and LOST in firing:
        yield "each domain runs once, and an alert says that one is lost"
    between = [name for name in facts.homes if _stands_between(look.places, name)]
    if between and BETWEEN not in firing:
        yield f"{' and '.join(between)}: left between two hosts, and no alert says so"
    moving = any(_busy(look.places, name) for name in facts.homes)
    if not between and not moving and BETWEEN in firing:
        yield "no domain stands between two hosts, and an alert says so"
    for name in (one for one in facts.homes if one not in between):
        here = active(look.places, name)
        if len(here) == 1 and look.places[name][here[0]].state == "paused" and not _busy(look.places, name):
            yield f"{name} stands paused on {here[0]}, and nothing goes on with it"
    for name, uuid in facts.uuids.items():
        if name in doubled or name in lost or name in between or _busy(look.places, name):
            continue
        for entry in _of(look.entries, uuid):
            if entry.is_open and entry.began is not None and entry.began < facts.healed:
                yield f"entry {entry.id} of {name} is still open, and no job of it runs"


def _lost(facts: Facts, look: Look, name: str) -> bool:
    """Whether it ended in a migration of the balancer and not by a person's order."""
    if active(look.places, name) or name in facts.touched:
        return False
    there = [any(domain == name for domain, _ in states) for _, states in facts.changes]
    ends = [at for (at, _), before, now in zip(facts.changes[1:], there, there[1:], strict=False) if before and not now]
    # A little before: the journal may have had its end by the time that the process was gone.
    return bool(ends) and any(
        _open_at(entry, ends[-1] - 0.2) and _was_moving(facts, name, entry, ends[-1])
        for entry in _of(look.entries, facts.uuids[name])
    )


def _was_moving(facts: Facts, name: str, entry: Entry, until: float) -> bool:
    """Whether its destination had a QEMU for it: libvirt had been asked, and had begun."""
    return any(
        (name, entry.destination) in states for at, states in facts.changes if (entry.began or 0.0) <= at < until
    )


def _stands_between(places: Places, name: str) -> bool:
    """Whether a migration has left it paused, and no job takes it on."""
    here = places.get(name, {})
    runs = any(standing.state == "running" for standing in here.values())
    return not runs and not _busy(places, name) and any(standing.between for standing in here.values())


def _busy(places: Places, name: str) -> bool:
    return any(standing.busy for standing in places.get(name, {}).values())


def _at_end(facts: Facts, look: Look) -> Iterator[str]:
    for name, uuid in facts.uuids.items():
        here = active(look.places, name)
        if len(here) != 1:
            yield f"{name} is active on {len(here)} hosts at the end: {', '.join(here) or 'none'}"
            continue
        defined = [host for host, standing in look.places[name].items() if standing.defined]
        if defined != here:
            yield f"{name} runs on {here[0]} at the end, and is defined on {', '.join(defined) or 'no host'}"
        if name not in facts.touched | facts.mended:
            yield from replayed(name, facts.homes[name], here[0], _of(look.entries, uuid))
        for entry in _of(look.entries, uuid):
            if entry.is_open:
                yield f"entry {entry.id} of {name} has no end"
            if entry.lost:
                yield f"entry {entry.id} of {name}: it counts as lost, and it runs on {here[0]}"
    for alert, _ in look.alerts:
        if alert in (TWICE, LOST, BETWEEN):
            yield f"all is well at the end, and {alert} fires"


def _of(entries: Iterable[Entry], uuid: str) -> list[Entry]:
    return [entry for entry in entries if entry.uuid == uuid]
