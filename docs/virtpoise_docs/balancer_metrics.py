"""docs/balancer-metrics.md, from the metrics that a balancer serves."""

from __future__ import annotations

from virtpoise_balancer.analyse.measure import DuePrediction, Measured
from virtpoise_balancer.execute.reach import HostAnswer
from virtpoise_balancer.knowledge.records import Action, PredictionRecord
from virtpoise_balancer.model import (
    Host,
    HostState,
    MigrationOutcome,
    Move,
    Plan,
    Policy,
    PredictedLoads,
    Prediction,
    Reason,
    Refusal,
    Result,
    Role,
    Snapshot,
)
from virtpoise_balancer.monitor.observe import Observation
from virtpoise_balancer.web.metrics import Metrics
from virtpoise_balancer.web.state import Published, State

_METRICS = """\
# The balancer's metrics

Generated from the code by `scripts/generate-docs`; a test compares the two. The exporter's metrics are in
[metrics.md](metrics.md).

- Names carry their unit; ratios go from 0 to 1. A host's name is its target's `instance` without the port.
- Only the active balancer (`virtpoise_leader`) exports metrics of hosts and plans.
- The metrics are stable: a renamed metric is exported under both names for one release.

`process_*` are the balancer's own resource use, as in every Prometheus client.

| metric | kind | labels | meaning |
| --- | --- | --- | --- |
"""


def balancer_metrics() -> str:
    """docs/balancer-metrics.md."""
    rows = []
    for family in _one_of_everything().registry.collect():
        if family.name.startswith("process_"):
            continue
        labels = {name: None for sample in family.samples for name in sample.labels if name != "le"}
        name = f"{family.name}_total" if family.type == "counter" else family.name
        told = ", ".join(f"`{label}`" for label in labels)
        rows.append(f"| `{name}` | {family.type} | {told} | {family.documentation} |\n")
    return _METRICS + "".join(sorted(rows))


def _one_of_everything() -> Metrics:
    """The metrics of a balancer to which everything has happened that has a metric."""
    unknown = Host(name="h2", state=HostState.UNKNOWN, cpus=1, memory_bytes=1)
    host = Host(name="h1", cpus=1, cpu_ratio=(0.5,), memory_bytes=1, memory_used_bytes=0, penalty_until=1.0)
    ends = PredictedLoads(source=Prediction.exact(0.5), destination=Prediction.exact(0.5))
    predicted = PredictionRecord(
        host="h1",
        role=Role.SOURCE,
        resource="cpu",
        made=0.0,
        predicted=0.5,
        lower=0.5,
        upper=0.5,
        measured=None,
        error=None,
        verdict=None,
    )
    state = State(
        mode="automatic",
        leader=True,
        policy=Policy(),
        interval_seconds=10,
        cycle_at=0.0,
        figures_at=0.0,
        observation=Observation(snapshot=Snapshot(time=0.0, hosts=(host, unknown), domains=()), age_seconds=0.0),
        plan=Plan(strategy="default", solved=True, summary="", refusals=(Refusal(host="h1", reason=Reason.PENALTY),)),
        predictions=(predicted,),
        host_answers={"h1": HostAnswer(asked_at=0.0, active_domains=0)},
    )
    metrics = Metrics(Published(state))
    metrics.migration_ended(
        Move(domain="vm1", uuid="u", source="h1", destination="h2", predicted=ends),
        MigrationOutcome(result=Result.DONE),
    )
    due = DuePrediction(
        id=1,
        host="h1",
        role=Role.SOURCE,
        predicted=0.5,
        lower=0.5,
        upper=0.5,
        migrated=0.0,
        disturbed_from=None,
        source="h1",
        destination="h2",
    )
    metrics.prediction_measured(due, Measured(verdict="measured", ratio=0.5, error=0.0))
    metrics.ordered(Action(at=0.0, who="alice", origin="command", action="pause", accepted=True, answer=""))
    return metrics
