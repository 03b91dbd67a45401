"""What domains usually use: read from the past where no cycle looked, kept up with each look, put into a snapshot."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from operator import attrgetter
from typing import Protocol

from virtpoise_balancer.analyse.habits import HabitBook, Readings, readings
from virtpoise_balancer.analyse.host_limits import trigger_of
from virtpoise_balancer.errors import MonitorError
from virtpoise_balancer.model import Policy, Resource, SampleTimes, Snapshot

# What domains used is read from the past where no cycle has looked for longer.
_PAUSE_SECONDS = 600.0
# Where no host is overloaded, habits are known of this many of the busiest hosts and of the least busy ones.
_AT_ENDS = 64


class PastObserver(Protocol):
    """Where the past is (monitor reads it)."""

    @property
    def sample_times(self) -> SampleTimes: ...

    def past(self, seen: Snapshot, since: float, /) -> Iterator[tuple[float, Readings]]:
        """What the domains of a look used before it, oldest first, with the time of each reading (Unix seconds).

        ``since``: what is older is not asked for. MonitorError.
        """
        ...


def take_in(book: HabitBook, observer: PastObserver, seen: Snapshot, policy: Policy) -> tuple[str, ...]:
    """Keep what domains use now, and what they used while no one looked. Returns why not all of that is known."""
    if not policy.traits.habits:
        return ()
    untold: tuple[str, ...] = ()
    if seen.time - book.time > _PAUSE_SECONDS:
        try:
            for at, read in observer.past(seen, book.time):
                keep(book, observer, at, read, policy)
        except MonitorError as error:
            untold = (f"not all is known of what domains usually use: {error}",)
    keep(book, observer, seen.time, readings(seen), policy)
    return untold


def keep(book: HabitBook, observer: PastObserver, at: float, read: Readings, policy: Policy) -> None:
    """Keep what domains used over the last N samples until this time (Unix seconds)."""
    book.update(at, read, policy.cpu.consecutive * observer.sample_times.step_seconds)


def needs_habits(snapshot: Snapshot, policy: Policy) -> bool:
    """Whether a plan may need them: a host is overloaded, or overloads are to be foreseen."""
    return policy.traits.habits and (policy.foresight is not None or _overloaded(snapshot, policy))


def _overloaded(snapshot: Snapshot, policy: Policy) -> bool:
    return any(host.known and host.load >= trigger_of(host, Resource.CPU, policy).threshold for host in snapshot.hosts)


def with_habits(snapshot: Snapshot, book: HabitBook, policy: Policy) -> Snapshot:
    """With the habits of the domains where a plan may need them.

    Without an overload these are those of the busiest hosts and of the least busy ones.
    """
    if not needs_habits(snapshot, policy):
        return snapshot
    if _overloaded(snapshot, policy):
        return replace(snapshot, habits=book.habits())
    hosts = sorted((host for host in snapshot.hosts if host.known), key=attrgetter("load", "name"))
    near = {host.name for host in (*hosts[:_AT_ENDS], *hosts[-_AT_ENDS:])}
    return replace(snapshot, habits=book.habits(one.uuid for one in snapshot.domains if one.host in near))
