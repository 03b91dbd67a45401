"""The newest state of the balancer, for whoever asks: written by the loop, read by the web server's threads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from virtpoise_balancer.analyse.overload import consecutive
from virtpoise_balancer.analyse.standing import Standing
from virtpoise_balancer.execute.executor import InFlight
from virtpoise_balancer.knowledge.steering import Mode, Steering
from virtpoise_balancer.knowledge.store import PredictionRecord
from virtpoise_balancer.model import Host, Plan, Policy
from virtpoise_balancer.monitor.observe import Observation


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Replaced as a whole after each cycle. ``mode``: what the configuration says; ``cycle_at``: when the newest cycle ran (Unix
    seconds), None before the first.
    """

    mode: Mode
    leader: bool
    policy: Policy
    interval_seconds: float
    cycle_at: float | None = None
    result: str = ""
    sentence: str = "no cycle has run yet"
    observation: Observation | None = None
    plan: Plan | None = None
    standings: Mapping[str, Standing] = field(default_factory=dict)
    predictions: tuple[PredictionRecord, ...] = ()


@dataclass(slots=True)
class Board:
    """``in_flight`` and ``steering`` are asked at each look, since migrations and orders do not wait for a cycle."""

    state: State
    in_flight: Callable[[], tuple[InFlight, ...]] = tuple
    steering: Callable[[], Steering] = Steering

    @property
    def mode(self) -> Mode:
        """The mode that holds."""
        return self.steering().mode_over(self.state.mode)


def host_status(state: State, host: Host) -> dict[str, Any]:
    """What is known of one host, as the status gives it."""
    observation = state.observation
    standing = state.standings.get(host.name)
    penalty = host.penalty_until
    at = observation.snapshot.time if observation else 0.0
    return {
        "name": host.name,
        "state": host.state.value,
        "cpus": host.cpus,
        "cpu_ratio": host.load if host.known else None,
        "memory_ratio": host.memory_ratio if host.known else None,
        "consecutive": consecutive(host, state.policy.cpu, observation.snapshot) if observation else 0,
        "penalty_seconds": max(penalty - at, 0.0) if penalty else 0.0,
        "failures": standing.failures if standing else 0,
        "domains": sorted(
            domain.name
            for domain in (observation.snapshot.domains if observation else ())
            if domain.host == host.name and domain.state != "shutoff"
        ),
    }


def status(board: Board) -> dict[str, Any]:
    """The balancer's status as plain values, for ``/api/v1/status``."""
    state = board.state
    steering = board.steering()
    trigger = state.policy.cpu
    return {
        "mode": steering.mode_over(state.mode),
        "mode_set": asdict(steering.mode) if steering.mode else None,
        "paused": asdict(steering.paused) if steering.paused else None,
        "leader": state.leader,
        "interval_seconds": state.interval_seconds,
        "strategy": state.policy.strategy,
        "threshold": trigger.threshold,
        "consecutive": trigger.consecutive,
        "cycle_at": state.cycle_at,
        "snapshot_at": state.observation.snapshot.time if state.observation else None,
        "result": state.result,
        "sentence": state.sentence,
        "hosts": [host_status(state, host) for host in state.observation.snapshot.hosts] if state.observation else [],
        "in_flight": [
            {
                "domain": flight.move.domain,
                "source": flight.move.source,
                "destination": flight.move.destination,
                "progress": asdict(flight.progress) if flight.progress else None,
            }
            for flight in board.in_flight()
        ],
    }
