"""The mark of the threshold beside a prediction is that of its host."""

from __future__ import annotations

from builders import group, host
from virtpoise_balancer.knowledge.records import MigrationRecord, PredictionRecord
from virtpoise_balancer.model import HostLimits, Policy, Role
from virtpoise_balancer.monitor.observe import Observation
from virtpoise_balancer.web.page.parts import migration_cards
from virtpoise_balancer.web.state import State


def test_a_measured_prediction_is_marked_by_the_threshold_of_its_host() -> None:
    ends = [(Role.SOURCE, "h1"), (Role.DESTINATION, "h2"), (Role.DESTINATION, "gone")]
    predictions = tuple(
        PredictionRecord(
            host=name,
            role=role,
            resource="cpu",
            made=1.0,
            predicted=0.5,
            lower=0.4,
            upper=0.6,
            measured=0.5,
            error=0.0,
            verdict="measured",
        )
        for role, name in ends
    )
    record = MigrationRecord(
        id=1,
        plan_id=1,
        domain="vm",
        uuid="u",
        source="h1",
        destination="h2",
        began=1.0,
        ended=2.0,
        result="done",
        why="",
        seconds=1.0,
        downtime_seconds=0.1,
        transferred_bytes=1,
        dirty_bytes_per_second=None,
        predictions=predictions,
    )
    state = State(
        mode="recommend",
        leader=True,
        policy=Policy(hosts=(HostLimits(hosts=("h1", "gone"), cpu=0.6),)),
        interval_seconds=10.0,
        observation=Observation(snapshot=group(host("h1", 0.5), host("h2", 0.5)), age_seconds=1.0),
    )
    (card,) = migration_cards([record], state)
    assert [end.threshold for end in card.ends] == [0.6, 0.8, 0.8]
