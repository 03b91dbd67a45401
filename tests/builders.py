"""Short ways to write a group down."""

from dataclasses import dataclass
from math import ceil

from virtpoise_balancer.analyse.measure import DuePrediction
from virtpoise_balancer.model import Domain, DomainState, Host, Plan, Policy, Role, SampleTimes, Snapshot, Trigger

GIB = 2**30
SAMPLE_TIMES = SampleTimes(step_seconds=10.0, reach_back_seconds=0.0, samples=30)


@dataclass
class FakeClock:
    """A clock that a test sets."""

    at: float = 1000.0

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at

    def sleep(self, seconds: float) -> None:
        self.at += seconds


def host(name: str, *loads: float, cpus: int = 8, memory_ratio: float = 0.5, **more: object) -> Host:
    memory = 8 * GIB
    idle = {"rx_ratio": 0.0, "tx_ratio": 0.0}
    values = {"memory_bytes": memory, "memory_used_bytes": int(memory * memory_ratio)} | idle | more
    return Host(name=name, cpus=cpus, cpu_ratio=loads, **values)  # type: ignore[arg-type]


def domain(name: str, on: str, cores: float = 0.0, **more: object) -> Domain:
    values = {"uuid": f"uuid-of-{name}", "vcpus": max(1, ceil(cores)), "memory_bytes": GIB // 4} | more
    return Domain(name=name, host=on, cpu_cores=cores, **values)  # type: ignore[arg-type]


def shut_off(name: str, on: str) -> Domain:
    return domain(name, on, state=DomainState.SHUTOFF)


def group(*members: Host | Domain, time: float = 1000.0, step: float = 10.0) -> Snapshot:
    return Snapshot(
        time=time,
        step_seconds=step,
        hosts=tuple(member for member in members if isinstance(member, Host)),
        domains=tuple(member for member in members if isinstance(member, Domain)),
    )


def thesis_policy(threshold: float = 0.6, consecutive: int = 2) -> Policy:
    return Policy(strategy="thesis", cpu=Trigger(threshold=threshold, consecutive=consecutive))


def where(made: Plan) -> dict[str, str]:
    """The destination of each domain that the plan moves."""
    return {move.domain: move.destination for move in made.moves}


def due_prediction(**changed: object) -> DuePrediction:
    """A prediction for the source h1 of a migration to h2, due to be measured."""
    values = {
        "id": 1,
        "host": "h1",
        "role": Role.SOURCE,
        "predicted": 0.5,
        "lower": 0.4,
        "upper": 0.6,
        "migrated": 1000.0,
        "disturbed_from": None,
        "source": "h1",
        "destination": "h2",
    }
    return DuePrediction(**(values | changed))  # type: ignore[arg-type]
