"""What others did to the group: migrations, starts and stops between two looks that the journal does not explain.

The hosts of such a change rest until their figures show it, by the law for our own moves (backoff, commitments).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from virtpoise_balancer.analyse.commitments import Commitment, shows_from
from virtpoise_balancer.analyse.learned import PastMoves
from virtpoise_balancer.analyse.measure import DuePrediction
from virtpoise_balancer.model import DomainState, Result, SampleTimes, Snapshot

# For how many steps a domain may be seen nowhere, as in the middle of a migration, before it counts as stopped.
_PATIENCE_STEPS = 3
# After a longer gap between two looks nothing is compared: the time of a change would be unknown.
LONGEST_GAP_SECONDS = 3600.0
# Starts and stops on a host count for this long after the first of a series. A series ends with a pause as long. A host
# whose guests come and go all the time would else never be judged, nor one whose guest's owner wants it so.
_SERIES_SECONDS = 300.0
# How many changes of one host are remembered. Further ones change no decision, and a host whose exporter reports other
# domains each time could fill the store with them.
MOST_OF_A_HOST = 500


class ChangeKind(StrEnum):
    """What others did, as a label of a metric."""

    MIGRATED = "migrated"
    STARTED = "started"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True, kw_only=True)
class OthersChange:
    """A migration, start or stop by others.

    ``before``: the last look without it; ``at``: the first with it (Unix seconds).

    ``source``: None of a start; ``destination``: None of a stop.
    """

    kind: ChangeKind
    domain: str
    uuid: str
    source: str | None = None
    destination: str | None = None
    before: float
    at: float

    @property
    def hosts(self) -> tuple[str, ...]:
        return tuple(host for host in (self.source, self.destination) if host is not None)

    def shows_from(self, times: SampleTimes) -> float | None:
        """When a step must begin for its sample to show all of the change."""
        return shows_from(self.at, times)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """Where an active domain was seen last.

    ``seen``: when that was, if not at the newest look. ``missing_since``: from when on its host, which is known, does
    not list it; or None.
    """

    name: str
    host: str
    seen: float | None = None
    missing_since: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sightings:
    """What the newest look showed. ``hosts``: the known ones; ``domains``: the active ones, by uuid."""

    at: float
    hosts: frozenset[str] = frozenset()
    domains: Mapping[str, Sighting] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The outcome of comparing two looks.

    ``sightings``: to be remembered. ``changes``: what others did since the look before; of one host not more than
    counts.
    """

    sightings: Sightings
    changes: tuple[OthersChange, ...] = ()


def compare(
    before: Sightings | None,
    seen: Snapshot,
    ours: Iterable[Commitment],
    now: float,
    doubtful: Collection[str] = (),
    lately: Iterable[OthersChange] = (),
) -> Comparison:
    """What others changed since the look before.

    ``ours``: the journal's moves. ``lately``: the changes that are remembered. ``doubtful``: uuids of domains that are
    twice or unaccounted for; nothing follows from where these are seen.
    """
    known = frozenset(host.name for host in seen.hosts if host.known)
    active = {
        domain.uuid: Sighting(name=domain.name, host=domain.host)
        for domain in seen.domains
        if domain.state is not DomainState.SHUTOFF and domain.host in known and domain.uuid not in doubtful
    }
    if before is None or now - before.at > LONGEST_GAP_SECONDS:
        return Comparison(sightings=Sightings(at=now, hosts=known, domains=active))
    patience = _PATIENCE_STEPS * seen.step_seconds
    journal = _Journal.of(ours, patience)
    listed = {host.name for host in seen.hosts}
    domains = dict(active)
    changes = []
    for uuid, last in before.domains.items():
        found, there = active.get(uuid), before.at if last.seen is None else last.seen
        if found is not None:
            if found.host == last.host:
                if journal.has_left(uuid, found.host, there):
                    domains[uuid] = replace(last, seen=there)
            elif journal.explains(uuid, found.host, there):
                continue
            elif journal.may_be_outdated(uuid, found.host, last.host, now if last.host in known else None):
                domains[uuid] = replace(last, seen=there)
            else:
                changes.append(_change(ChangeKind.MIGRATED, uuid, found.name, last.host, found.host, there, now))
        elif uuid in doubtful or (last.host in listed and last.host not in known):
            domains[uuid] = replace(last, seen=there, missing_since=None)  # absence is no fact
        elif last.host in listed:
            missing = last.missing_since if last.missing_since is not None else now
            if now - missing < patience or journal.has(uuid, there):
                domains[uuid] = replace(last, seen=there, missing_since=missing)
            else:
                changes.append(_change(ChangeKind.STOPPED, uuid, last.name, last.host, None, there, now))
    for uuid, found in active.items():
        new = uuid not in before.domains and found.host in before.hosts
        if new and not journal.explains(uuid, found.host, before.at):
            changes.append(_change(ChangeKind.STARTED, uuid, found.name, None, found.host, before.at, now))
    return Comparison(
        sightings=Sightings(at=now, hosts=known, domains=domains),
        changes=_bounded(sorted(changes, key=lambda one: (one.kind, one.domain, one.uuid)), lately),
    )


def _bounded(changes: Iterable[OthersChange], lately: Iterable[OthersChange]) -> tuple[OthersChange, ...]:
    """The changes without those of hosts that have had as many as count."""
    told = Counter(host for one in lately for host in one.hosts)
    found = []
    for one in changes:
        if max(told[host] for host in one.hosts) < MOST_OF_A_HOST:
            told.update(one.hosts)
            found.append(one)
    return tuple(found)


def _change(
    kind: ChangeKind, uuid: str, name: str, source: str | None, destination: str | None, before: float, at: float
) -> OthersChange:
    return OthersChange(kind=kind, domain=name, uuid=uuid, source=source, destination=destination, before=before, at=at)


@dataclass(frozen=True, slots=True)
class _Journal:
    """Our moves that were made, by the domain's uuid. ``late``: by how much samples may show a move late (seconds)."""

    moves: Mapping[str, Sequence[Commitment]]
    late: float

    @classmethod
    def of(cls, ours: Iterable[Commitment], late: float) -> _Journal:
        moves: dict[str, list[Commitment]] = {}
        for one in ours:
            if one.began is not None and one.result is not Result.SKIPPED:
                moves.setdefault(one.uuid, []).append(one)
        return cls(moves, late)

    def _since(self, uuid: str, seen: float) -> Iterator[Commitment]:
        """The moves of a domain that may show since it was last seen somewhere else.

        Where the end lies before the beginning, the clock was set back in between.
        """
        for one in self.moves.get(uuid, ()):
            if one.ended is None or one.ended >= seen - self.late or (one.began or 0.0) > one.ended:
                yield one

    def has(self, uuid: str, seen: float) -> bool:
        return any(True for _ in self._since(uuid, seen))

    def explains(self, uuid: str, host: str, seen: float) -> bool:
        """Whether the domain is on this host because of a move of the balancer.

        One that failed may leave it on its source.
        """
        return any(
            host == one.destination or (host == one.source and one.result is not Result.DONE)
            for one in self._since(uuid, seen)
        )

    def has_left(self, uuid: str, host: str, seen: float) -> bool:
        """Whether a move of the balancer has taken the domain away from this host since it was seen there.

        A stuck exporter goes on showing it.
        """
        return any(one.result is Result.DONE and one.source == host for one in self._since(uuid, seen))

    def may_be_outdated(self, uuid: str, host: str, last_host: str, now: float | None) -> bool:
        """Whether a domain on the source of a done move of the balancer is shown there by a sample from before its end.

        ``last_host``: where it was seen before. An incoming domain shows on its destination before it has left.
        ``now``: None while that host is unknown. Then nothing contradicts the source's exporter, which may be stuck.
        """
        return any(
            one.result is Result.DONE
            and (one.source, one.destination) == (host, last_host)
            and one.ended is not None
            and (now is None or 0 <= now - one.ended < self.late)
            for one in self.moves.get(uuid, ())
        )


def counting(changes: Sequence[OthersChange]) -> tuple[OthersChange, ...]:
    """The changes for which their hosts rest. ``changes``: oldest first.

    All migrations; of the starts and stops on a host those within a time from the first of their series.
    """
    series: dict[str, tuple[float, float]] = {}  # by host: the first and the newest of its series
    found = []
    for one in changes:
        counts = one.kind is ChangeKind.MIGRATED
        for host in one.hosts if not counts else ():
            first, newest = series.get(host, (one.at, one.at))
            if one.at - newest > _SERIES_SECONDS:
                first = one.at
            series[host] = (first, one.at)
            counts = one.at - first <= _SERIES_SECONDS
        if counts:
            found.append(one)
    return tuple(found)


def as_commitments(changes: Iterable[OthersChange]) -> tuple[Commitment, ...]:
    """Others' migrations as moves that have ended: until the figures show them, they count on both of their hosts."""
    return tuple(
        Commitment(
            domain=one.domain,
            uuid=one.uuid,
            source=one.source,
            destination=one.destination,
            began=one.before,
            ended=one.at,
            result=Result.DONE,
            figures_until=one.before,
        )
        for one in changes
        if one.source is not None and one.destination is not None
    )


def with_moved(moved: Mapping[str, PastMoves], changes: Iterable[OthersChange]) -> dict[str, PastMoves]:
    """When domains were last moved, by whomever: what a person has just moved stays where it was put."""
    merged = dict(moved)
    for one in changes:
        if one.kind is ChangeKind.MIGRATED:
            before = merged.get(one.uuid, PastMoves(times=0, last=one.at))
            merged[one.uuid] = PastMoves(times=before.times + 1, last=max(before.last, one.at))
    return merged


def disturbed(due: Iterable[DuePrediction], changes: Sequence[OthersChange]) -> tuple[DuePrediction, ...]:
    """The predictions with the first change of their host after the migration as what disturbs their measurement."""
    return tuple(replace(one, disturbed_from=_disturbed_from(one, changes)) for one in due)


def _disturbed_from(due: DuePrediction, changes: Sequence[OthersChange]) -> float | None:
    own = () if due.disturbed_from is None else (due.disturbed_from,)
    theirs = (max(one.before, due.migrated) for one in changes if due.host in one.hosts and one.at > due.migrated)
    return min((*own, *theirs), default=None)
