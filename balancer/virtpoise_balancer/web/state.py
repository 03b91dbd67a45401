"""The newest state of the balancer: written by the loop, read by the web server's threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Generic, TypeVar

from virtpoise_balancer.analyse.backoff import Backoff
from virtpoise_balancer.analyse.brake import Brake, in_force
from virtpoise_balancer.analyse.drains import DrainOrder, is_draining
from virtpoise_balancer.analyse.host_limits import trigger_of
from virtpoise_balancer.analyse.overload import consecutive
from virtpoise_balancer.analyse.triggers import overloads, watched
from virtpoise_balancer.blackout import Blackout
from virtpoise_balancer.clock import SYSTEM, Clock
from virtpoise_balancer.control.acting import mode_in_force
from virtpoise_balancer.execute.executor import InFlight
from virtpoise_balancer.execute.reach import HostAnswer
from virtpoise_balancer.knowledge.records import Overrides, OverrideValue, PredictionRecord
from virtpoise_balancer.model import (
    Domain,
    DomainState,
    Host,
    HostState,
    Mode,
    Overload,
    Plan,
    Policy,
    Progress,
    Resource,
    Snapshot,
    Unsettled,
)
from virtpoise_balancer.monitor.observe import Observation
from virtpoise_balancer.monitor.targets import RefusedTargets

T = TypeVar("T")

_STALLED_INTERVALS = 6
_STALLED_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What the newest cycle left. It is replaced as a whole, never changed.

    ``mode``: the configured mode; ``only_recommends``: why no move may be made without a person's approval, whatever
    the mode, or None; ``cycle_at``: when the newest cycle ran (Unix seconds), None before the first; ``figures_at``:
    the time of the newest sample that any cycle has seen; ``unsettled``: domains that keep all action off their hosts;
    ``brake`` and ``blackout``: as the newest cycle found them; ``host_answers``: the last answer of each host's libvirt
    to the balancer.
    """

    mode: Mode
    leader: bool
    policy: Policy
    interval_seconds: float
    only_recommends: str | None = None
    cycle_at: float | None = None
    figures_at: float | None = None
    result: str = ""
    sentence: str = "no cycle has run yet"
    observation: Observation | None = None
    plan: Plan | None = None
    backoffs: Mapping[str, Backoff] = field(default_factory=dict)
    drains: Mapping[str, DrainOrder] = field(default_factory=dict)
    predictions: tuple[PredictionRecord, ...] = ()
    unsettled: tuple[Unsettled, ...] = ()
    brake: Brake | None = None
    blackout: Blackout | None = None
    broken: tuple[str, ...] = ()
    host_answers: Mapping[str, HostAnswer] = field(default_factory=dict)

    @property
    def silent(self) -> Mapping[str, str]:
        """Why, by host, of those whose libvirt does not answer the balancer."""
        return {host: answer.why for host, answer in self.host_answers.items() if answer.why}

    @property
    def snapshot(self) -> Snapshot | None:
        return self.observation.snapshot if self.observation else None

    @property
    def refused(self) -> RefusedTargets:
        return self.observation.refused if self.observation else RefusedTargets()


@dataclass(slots=True)
class OnceOf(Generic[T]):
    """What is made of a state alone. It is kept until another state comes. Several threads may ask."""

    _make: Callable[[State], T]
    _made: tuple[State, T] | None = field(init=False, default=None)

    def __call__(self, state: State) -> T:
        made = self._made
        if made is None or made[0] is not state:
            made = self._made = (state, self._make(state))
        return made[1]


@dataclass(slots=True)
class Published:
    """The state that all readers share.

    ``in_flight`` and ``overrides`` are called at each reading: they change between cycles. ``cycle_ended``: when the
    newest cycle ended, or the balancer started, on the monotonic clock. ``clock``: by which ages are judged.
    """

    state: State
    in_flight: Callable[[], tuple[InFlight, ...]] = tuple
    overrides: Callable[[], Overrides] = Overrides
    clock: Clock = SYSTEM
    cycle_ended: float = field(init=False)
    _statuses: OnceOf[tuple[HostStatus, ...]] = field(init=False)

    def __post_init__(self) -> None:
        self.cycle_ended = self.clock.monotonic()
        self._statuses = OnceOf(host_statuses)

    @property
    def stalled_seconds(self) -> float | None:
        """The seconds since the last cycle ended, if that is too long: several intervals, and a minute at least."""
        since = self.clock.monotonic() - self.cycle_ended
        return since if since > max(_STALLED_INTERVALS * self.state.interval_seconds, _STALLED_SECONDS) else None

    @property
    def mode(self) -> Mode:
        """The mode in force, with the orders that came since the newest cycle."""
        state = self.state
        return mode_in_force(self.overrides(), state.mode, brake=self.brake, only_recommends=state.only_recommends)

    def statuses(self, state: State) -> tuple[HostStatus, ...]:
        """All hosts in the snapshot's order; empty before the first snapshot. Made once of each state."""
        return self._statuses(state)

    @property
    def brake(self) -> Brake | None:
        """The brake that is on."""
        return in_force(self.state.brake, self.overrides().released_at)


@dataclass(frozen=True, slots=True, kw_only=True)
class HostStatus:
    """One host. Ratios are None while it is unknown, ``rx_ratio`` and ``tx_ratio`` also where they alone are.
    ``why_unknown`` completes "h1 is unknown: ". ``domains``: those that are listed on it; an unknown host may have
    others.

    ``draining``: a drain is ordered, even while the host is unknown. ``active_domains``: how many domains its libvirt
    had in any state but shut off at ``asked_at`` (Unix seconds), when the balancer queried it last; None if it did not
    answer. Draining hosts are queried in each cycle, others when they are new or did not answer.

    ``overloaded``: the newest plan takes it as overloaded; while there is no plan, the newest samples make it so.
    ``consecutive``: how many of ``resource``'s newest samples count towards the ``needed`` ones that make a problem;
    fewer are enough on a host whose load rises. ``resource``: the one nearest to a problem; ``ratio``: its newest.
    ``threshold``: the host's own of its CPU load, or the common one.
    """

    name: str
    state: HostState
    why_unknown: str | None
    draining: bool
    active_domains: int | None
    asked_at: float | None
    cpus: int
    cpu_ratio: float | None
    memory_ratio: float | None
    rx_ratio: float | None
    tx_ratio: float | None
    overloaded: bool
    resource: Resource
    ratio: float | None
    consecutive: int
    needed: int
    threshold: float
    penalty_seconds: float
    failures: int
    domains: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Flight:
    """A running migration."""

    domain: str
    uuid: str
    source: str
    destination: str
    progress: Progress | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The balancer at this moment.

    ``mode_set`` and ``paused``: what a person has ordered, who, and when; ``brake``: why moves are only recommended
    although the mode was automatic; ``blackout``: until when mode automatic begins no migration; ``unsettled``: domains
    that keep all action off their hosts; ``refused_targets``: the targets of Prometheus that are refused as hosts.
    """

    mode: Mode
    mode_set: OverrideValue | None
    paused: OverrideValue | None
    brake: Brake | None
    blackout: Blackout | None
    leader: bool
    interval_seconds: float
    strategy: str
    threshold: float
    consecutive: int
    cycle_at: float | None
    snapshot_at: float | None
    result: str
    sentence: str
    hosts: tuple[HostStatus, ...]
    in_flight: tuple[Flight, ...]
    unsettled: tuple[Unsettled, ...]
    refused_targets: RefusedTargets


def newest_figures(before: float | None, observation: Observation | None, now: float) -> float:
    """The time of the newest sample ever seen (Unix seconds).

    If there is none, samples are missing since ``now``, the first cycle.
    """
    known = [] if before is None else [before]
    if observation is not None and observation.age_seconds is not None:
        known.append(observation.snapshot.time - observation.age_seconds)
    return max(known, default=now)


def domains_by_host(snapshot: Snapshot | None) -> dict[str, list[Domain]]:
    """The domains on each host, shut-off ones aside, in the snapshot's order."""
    found: dict[str, list[Domain]] = {}
    for domain in snapshot.domains if snapshot else ():
        if domain.state is not DomainState.SHUTOFF:
            found.setdefault(domain.host, []).append(domain)
    return found


def host_statuses(state: State) -> tuple[HostStatus, ...]:
    """All hosts in the snapshot's order; empty before the first snapshot."""
    snapshot = state.snapshot
    if snapshot is None:
        return ()
    domains = domains_by_host(snapshot)
    found = overloads(snapshot, state.policy) if state.plan is None else state.plan.overloaded
    worst = {one.host: one for one in reversed(found)}  # of a host's: the furthest above its threshold
    return tuple(
        _host_status(state, snapshot, host, domains.get(host.name, ()), worst.get(host.name)) for host in snapshot.hosts
    )


def _host_status(
    state: State, snapshot: Snapshot, host: Host, domains: Iterable[Domain], overload: Overload | None
) -> HostStatus:
    """What page, API and metrics show of the host. ``domains``: those on it."""
    backoff, answer = state.backoffs.get(host.name), state.host_answers.get(host.name)
    nearest = overload or _nearest_to_problem(state.policy, snapshot, host)
    return HostStatus(
        name=host.name,
        state=host.state,
        why_unknown=host.why_unknown.text if host.why_unknown else None,
        draining=is_draining(host.name, state.drains),
        active_domains=answer.active_domains if answer else None,
        asked_at=answer.asked_at if answer else None,
        cpus=host.cpus,
        cpu_ratio=host.load if host.known else None,
        memory_ratio=host.memory_ratio if host.known else None,
        rx_ratio=host.rx_ratio if host.known else None,
        tx_ratio=host.tx_ratio if host.known else None,
        overloaded=overload is not None,
        resource=nearest.resource if nearest else Resource.CPU,
        ratio=nearest.ratio if nearest else None,
        consecutive=nearest.consecutive if nearest else 0,
        needed=state.policy.trigger(nearest.resource if nearest else Resource.CPU).consecutive,
        threshold=trigger_of(host, Resource.CPU, state.policy).threshold,
        penalty_seconds=max(host.penalty_until - snapshot.time, 0.0) if host.penalty_until else 0.0,
        failures=backoff.failures if backoff else 0,
        domains=tuple(sorted(domain.name for domain in domains)),
    )


def _nearest_to_problem(policy: Policy, snapshot: Snapshot, host: Host) -> Overload | None:
    """What has the largest share of the consecutive samples that make an overload, the first of equals; None for a
    host that is unknown.
    """
    counts = [
        (count / trigger.consecutive, one, samples[-1], count)
        for one, trigger, samples in (watched(host, policy) if host.known else ())
        for count in (consecutive(host, trigger, snapshot, samples),)
    ]
    if not counts:
        return None
    _, resource, ratio, count = max(counts, key=itemgetter(0))
    return Overload(host=host.name, resource=resource, ratio=ratio, consecutive=count)


def flights(published: Published) -> tuple[Flight, ...]:
    """The running migrations with their progress."""
    return tuple(
        Flight(
            domain=one.move.domain,
            uuid=one.move.uuid,
            source=one.move.source,
            destination=one.move.destination,
            progress=one.progress,
        )
        for one in published.in_flight()
    )


def status(published: Published) -> Status:
    """What GET /api/v1/status returns."""
    state = published.state
    overrides = published.overrides()
    return Status(
        mode=published.mode,
        mode_set=overrides.mode,
        paused=overrides.paused,
        brake=published.brake,
        blackout=state.blackout,
        leader=state.leader,
        interval_seconds=state.interval_seconds,
        strategy=state.policy.strategy,
        threshold=state.policy.cpu.threshold,
        consecutive=state.policy.cpu.consecutive,
        cycle_at=state.cycle_at,
        snapshot_at=state.snapshot.time if state.snapshot else None,
        result=state.result,
        sentence=state.sentence,
        hosts=published.statuses(state),
        in_flight=flights(published),
        unsettled=state.unsettled,
        refused_targets=state.refused,
    )
