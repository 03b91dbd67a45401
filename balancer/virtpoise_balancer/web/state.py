"""The newest state of the balancer, for whoever asks: written by the loop, read by the web server's threads."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from virtpoise_balancer.analyse.backoff import Standing
from virtpoise_balancer.analyse.overload import consecutive
from virtpoise_balancer.execute.executor import InFlight
from virtpoise_balancer.execute.reach import Heard
from virtpoise_balancer.knowledge.steering import Mode, Setting, Steering
from virtpoise_balancer.knowledge.store import PredictionRecord
from virtpoise_balancer.model import Domain, DomainState, Host, HostState, Plan, Policy, Progress, Snapshot, Trigger
from virtpoise_balancer.monitor.observe import Observation
from virtpoise_balancer.monitor.targets import RefusedTargets

_STALLED_INTERVALS = 6
_STALLED_SECONDS = 60.0

Resource = Literal["cpu", "memory", "rx", "tx"]


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Replaced as a whole after each cycle. ``mode``: what the configuration says; ``cycle_at``: when the newest cycle ran (Unix
    seconds), None before the first; ``figures_at``: of when the newest figures are that were ever seen, also after cycles that saw none;
    ``lost``: domains (uuids) that a migration left running nowhere; ``heard``: what each host's libvirt answered the balancer last.
    """

    mode: Mode
    leader: bool
    policy: Policy
    interval_seconds: float
    cycle_at: float | None = None
    figures_at: float | None = None
    result: str = ""
    sentence: str = "no cycle has run yet"
    observation: Observation | None = None
    plan: Plan | None = None
    standings: Mapping[str, Standing] = field(default_factory=dict)
    predictions: tuple[PredictionRecord, ...] = ()
    lost: frozenset[str] = frozenset()
    heard: Mapping[str, Heard] = field(default_factory=dict)

    @property
    def silent(self) -> Mapping[str, str]:
        """Why, by host, of those whose libvirt does not answer the balancer."""
        return {host: heard.why for host, heard in self.heard.items() if heard.why}

    @property
    def snapshot(self) -> Snapshot | None:
        return self.observation.snapshot if self.observation else None

    @property
    def refused(self) -> RefusedTargets:
        return self.observation.refused if self.observation else RefusedTargets()


@dataclass(slots=True)
class Board:
    """``in_flight`` and ``steering`` are asked at each look, since migrations and orders do not wait for a cycle.

    ``cycle_ended``: when the newest cycle ended, or the balancer started; on the monotonic clock, which nobody sets.
    """

    state: State
    in_flight: Callable[[], tuple[InFlight, ...]] = tuple
    steering: Callable[[], Steering] = Steering
    cycle_ended: float = field(default_factory=time.monotonic)

    @property
    def stalled_seconds(self) -> float | None:
        """For how long no cycle has ended, if that is too long: several intervals, and a minute at least; else None."""
        since = time.monotonic() - self.cycle_ended
        return since if since > max(_STALLED_INTERVALS * self.state.interval_seconds, _STALLED_SECONDS) else None

    @property
    def mode(self) -> Mode:
        """The mode that holds."""
        return self.steering().mode_over(self.state.mode)


@dataclass(frozen=True, slots=True, kw_only=True)
class HostStatus:
    """What is known of one host. Ratios are None while it is unknown; ``why_unknown`` completes "h1 is unknown: ".

    ``draining``: a drain was ordered, also while the host is unknown. ``active_domains``: how many domains its own libvirt had in any
    state but shut off when the balancer asked it last, at ``asked_at`` (Unix seconds); None when it did not answer. Hosts that drain are
    asked in each cycle, others when they are new or were silent.

    ``consecutive``: readings in a row that count towards ``needed``, of the ``resource`` that is the nearest to it.
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
    resource: Resource
    consecutive: int
    needed: int
    penalty_seconds: float
    failures: int
    domains: tuple[str, ...]

    @property
    def overloaded(self) -> bool:
        return self.consecutive >= self.needed

    @property
    def worst_ratio(self) -> float | None:
        """Of ``resource``."""
        ratios = {"cpu": self.cpu_ratio, "memory": self.memory_ratio, "rx": self.rx_ratio, "tx": self.tx_ratio}
        return ratios[self.resource]


@dataclass(frozen=True, slots=True, kw_only=True)
class Flight:
    """A migration under way."""

    domain: str
    uuid: str
    source: str
    destination: str
    progress: Progress | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The balancer at this moment. ``mode_set`` and ``paused``: what a person has set over the configuration, and who and when;
    ``refused_targets``: the targets of Prometheus that are not taken for hosts.
    """

    mode: Mode
    mode_set: Setting | None
    paused: Setting | None
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
    refused_targets: RefusedTargets


def newest_figures(before: float | None, observation: Observation | None, now: float) -> float:
    """Of when the newest figures are (Unix seconds). With none ever seen they are missing since the first look, which is ``now``."""
    known = [] if before is None else [before]
    if observation is not None and observation.age_seconds is not None:
        known.append(observation.snapshot.time - observation.age_seconds)
    return max(known, default=now)


def domains_by_host(snapshot: Snapshot | None) -> dict[str, list[Domain]]:
    """The domains that are not shut off, where they are; in the snapshot's order."""
    found: dict[str, list[Domain]] = {}
    for domain in snapshot.domains if snapshot else ():
        if domain.state is not DomainState.SHUTOFF:
            found.setdefault(domain.host, []).append(domain)
    return found


def host_status(state: State, snapshot: Snapshot, host: Host, domains: Iterable[Domain]) -> HostStatus:
    """``domains``: those that are on the host."""
    standing, heard = state.standings.get(host.name), state.heard.get(host.name)
    resource, count, needed = _worst(state.policy, snapshot, host)
    return HostStatus(
        name=host.name,
        state=host.state,
        why_unknown=host.why_unknown.text if host.why_unknown else None,
        draining=standing.draining if standing else False,
        active_domains=heard.active_domains if heard else None,
        asked_at=heard.asked_at if heard else None,
        cpus=host.cpus,
        cpu_ratio=host.load if host.known else None,
        memory_ratio=host.memory_ratio if host.known else None,
        rx_ratio=host.rx_ratio if host.known else None,
        tx_ratio=host.tx_ratio if host.known else None,
        resource=resource,
        consecutive=count,
        needed=needed,
        penalty_seconds=max(host.penalty_until - snapshot.time, 0.0) if host.penalty_until else 0.0,
        failures=standing.failures if standing else 0,
        domains=tuple(sorted(domain.name for domain in domains)),
    )


def _worst(policy: Policy, snapshot: Snapshot, host: Host) -> tuple[Resource, int, int]:
    """The resource that has most of the readings in a row that it needs, their number, and how many make it a problem."""
    watched: list[tuple[Resource, Trigger, tuple[float, ...]]] = [("cpu", policy.cpu, host.cpu_ratio)]
    if host.known and policy.strategy != "thesis":  # which knows no other resource
        watched += [
            ("memory", policy.memory, host.memory_ratio_window or (host.memory_ratio,)),
            ("rx", policy.network, host.rx_ratio_window or (host.rx_ratio,)),
            ("tx", policy.network, host.tx_ratio_window or (host.tx_ratio,)),
        ]
    counts = [
        (name, consecutive(host, trigger, snapshot, readings), trigger.consecutive)
        for name, trigger, readings in watched
    ]
    return max(counts, key=lambda one: one[1] / one[2])  # of equals the first


def host_statuses(state: State) -> tuple[HostStatus, ...]:
    """Of all hosts, in the snapshot's order; none before the first cycle that saw any."""
    snapshot = state.snapshot
    if snapshot is None:
        return ()
    domains = domains_by_host(snapshot)
    return tuple(host_status(state, snapshot, host, domains.get(host.name, ())) for host in snapshot.hosts)


def flights(board: Board) -> tuple[Flight, ...]:
    return tuple(
        Flight(
            domain=one.move.domain,
            uuid=one.move.uuid,
            source=one.move.source,
            destination=one.move.destination,
            progress=one.progress,
        )
        for one in board.in_flight()
    )


def status(board: Board) -> Status:
    state = board.state
    steering = board.steering()
    return Status(
        mode=steering.mode_over(state.mode),
        mode_set=steering.mode,
        paused=steering.paused,
        leader=state.leader,
        interval_seconds=state.interval_seconds,
        strategy=state.policy.strategy,
        threshold=state.policy.cpu.threshold,
        consecutive=state.policy.cpu.consecutive,
        cycle_at=state.cycle_at,
        snapshot_at=state.snapshot.time if state.snapshot else None,
        result=state.result,
        sentence=state.sentence,
        hosts=host_statuses(state),
        in_flight=flights(board),
        refused_targets=state.refused,
    )
