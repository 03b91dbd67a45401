"""Moves that the figures do not show yet, counted at both ends: the source still has the domain, the destination gets
it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import ceil

from virtpoise_balancer.model import Domain, Host, HostState, Result, SampleTimes, Snapshot, Unknown, UnknownKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Commitment:
    """A journalled move that has not ended, or ended a short while ago. Times in Unix seconds.

    ``began``: None while it waits. ``result`` and ``ended``: None until its end is known. ``figures_until``: until when
    samples do not show it yet, if not until its end.
    """

    domain: str
    uuid: str
    source: str
    destination: str
    began: float | None = None
    ended: float | None = None
    result: Result | None = None
    figures_until: float | None = None

    @property
    def hosts(self) -> tuple[str, ...]:
        return (self.source, self.destination)

    @property
    def is_open(self) -> bool:
        return self.began is not None and self.result is None

    @property
    def waits(self) -> bool:
        return self.began is None and self.result is None

    def shows_from(self, times: SampleTimes) -> float | None:
        """When a step must begin for its sample to show what the move has changed; None while that is not known."""
        return None if self.ended is None else shows_from(self.ended, times)

    def may_count(self, now: float, times: SampleTimes) -> bool:
        """Whether a look at ``now`` may find a move that it has to count: one under way, or made and not shown yet."""
        if self.result is Result.DONE and self.ended is not None:
            return self.ended > _shown_by_all(1, now, times)
        return self.is_open


def shows_from(ended: float, times: SampleTimes) -> float:
    """When a step must begin for its sample to show what ended at ``ended`` (Unix seconds)."""
    return ended + times.reach_back_seconds


def remembered_since(now: float, times: SampleTimes) -> float:
    """The time (Unix seconds) after which a migration must have ended to matter to a look at ``now``.

    All samples of the look show the effect of an earlier migration. A later one restarts N on both hosts.
    """
    return _shown_by_all(times.samples, now, times)


def _shown_by_all(newest: int, now: float, times: SampleTimes) -> float:
    """The time before which a move must have ended for the ``newest`` samples of a look at ``now`` to show it.

    The newest sample is at most a step and the look's delay old, and the first of them begins ``newest`` steps before
    that.
    """
    return now - times.delay_seconds - (newest + 1) * times.step_seconds - times.reach_back_seconds


def with_migrating(snapshot: Snapshot, commitments: Iterable[Commitment]) -> Snapshot:
    """The snapshot with the domains marked that are being migrated. One that has arrived already is not."""
    going = {one.uuid: one.destination for one in commitments if one.is_open}
    if not going:
        return snapshot
    return replace(snapshot, domains=tuple(_going(domain, going.get(domain.uuid)) for domain in snapshot.domains))


def _going(domain: Domain, destination: str | None) -> Domain:
    return domain if destination in (None, domain.host) else replace(domain, migrating_to=destination)


def with_commitments(
    snapshot: Snapshot, commitments: Sequence[Commitment], times: SampleTimes, *, waiting: bool
) -> Snapshot:
    """The snapshot as plans and looks before a move take it: what the figures do not show yet is added at both ends.

    The domain counts on its source, and as being on its way. The figures of both hosts are those from before the move,
    so that nothing counts twice. ``waiting``: moves that wait for their beginning are commitments, too.
    """
    hosts = {host.name: host for host in snapshot.hosts}
    places = {domain.uuid: at for at, domain in enumerate(snapshot.domains)}
    domains = list(snapshot.domains)
    for one in commitments:
        done = _not_shown(one, snapshot, times)
        if not (done or one.is_open or (waiting and one.result is None)):
            continue
        destination, source = hosts.get(one.destination), hosts.get(one.source)
        if destination is None:
            continue
        at = places.get(one.uuid)
        if at is None:
            if one.began is not None and destination.known:
                hosts[one.destination] = _unknown(destination, one)
            continue
        if domains[at].host not in (one.source, one.destination) or source is None:
            continue
        domains[at] = replace(domains[at], host=one.source, migrating_to=one.destination)
        if done and one.ended is not None:
            for host in (source, destination):
                until = one.ended if one.figures_until is None else one.figures_until
                hosts[host.name] = _before(hosts[host.name], until, snapshot)
    return replace(snapshot, hosts=tuple(hosts[host.name] for host in snapshot.hosts), domains=tuple(domains))


def _not_shown(one: Commitment, snapshot: Snapshot, times: SampleTimes) -> bool:
    """Whether the move was made, and the newest samples do not show all of it."""
    starts = one.shows_from(times)
    return one.result is Result.DONE and starts is not None and starts > snapshot.time - snapshot.step_seconds


def _unknown(host: Host, one: Commitment) -> Host:
    text = f"{one.domain} is on its way to it from {one.source} and not seen anywhere"
    return replace(host, state=HostState.UNKNOWN, unknown=Unknown(kind=UnknownKind.MIGRATING, text=text))


def _before(host: Host, at: float, snapshot: Snapshot) -> Host:
    """The host without the samples that were taken after ``at`` (Unix seconds); the oldest stays."""
    newer = max(ceil((snapshot.time - at) / snapshot.step_seconds), 0)
    if not newer:
        return host

    def older(samples: tuple[float, ...]) -> tuple[float, ...]:
        return samples[: max(len(samples) - newer, 1)]

    memory, rx, tx = (older(one) for one in (host.memory_ratio_window, host.rx_ratio_window, host.tx_ratio_window))
    return replace(
        host,
        cpu_ratio=older(host.cpu_ratio),
        memory_ratio_window=memory,
        rx_ratio_window=rx,
        tx_ratio_window=tx,
        memory_used_bytes=min(int(memory[-1] * host.memory_bytes), host.memory_bytes)
        if memory
        else host.memory_used_bytes,
        rx_ratio=rx[-1] if rx else host.rx_ratio,
        tx_ratio=tx[-1] if tx else host.tx_ratio,
    )
