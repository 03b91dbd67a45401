"""Short ways to write to a store what cycles and orders would write."""

from sqlalchemy import func, select

from builders import FakeClock, group, thesis_policy
from virtpoise_balancer.analyse.backoff import Backoff
from virtpoise_balancer.analyse.brake import Brake, BrakeCause
from virtpoise_balancer.analyse.measure import Measured
from virtpoise_balancer.analyse.others import ChangeKind, OthersChange, Sighting, Sightings
from virtpoise_balancer.control.decide import CycleResult, gist_of, next_cycle
from virtpoise_balancer.knowledge.leader import LeaderLock
from virtpoise_balancer.knowledge.records import Action, Changes, Look, NewPlan, OverrideValue
from virtpoise_balancer.knowledge.schema import metadata
from virtpoise_balancer.knowledge.store import Store
from virtpoise_balancer.model import Entries, MigrationOutcome, Plan, Policy, Result, Snapshot
from virtpoise_balancer.plan import plan

DONE = MigrationOutcome(
    result=Result.DONE, seconds=6.0, downtime_seconds=0.1, transferred_bytes=10**9, dirty_bytes_per_second=1e6
)
FAILED = MigrationOutcome(result=Result.FAILED, why="full", lost=True)
BY_OTHERS = OthersChange(
    kind=ChangeKind.MIGRATED, domain="b", uuid="uuid-b", source="h2", destination="h1", before=1490.0, at=1500.0
)
SIGHTINGS = Sightings(
    at=1500.0,
    hosts=frozenset({"h1", "h2", "h3"}),
    domains={"uuid-a": Sighting(name="a", host="h1"), "uuid-b": Sighting(name="b", host="h1", missing_since=1490.0)},
)


def record(
    store: Store,
    made: Plan,
    now: float,
    *,
    acted: bool,
    snapshot: Snapshot | None = None,
    policy: Policy | None = None,
) -> Entries:
    """Store a plan; its moves with their ids, if it is acted on."""
    new = NewPlan(plan=made, gist=gist_of(made), acted=acted, snapshot=snapshot or group(), policy=policy or Policy())
    return store.commit(Changes(plan=new), now).entries


def fill(store: Store, lock: LeaderLock, seen: Snapshot) -> None:
    """Rows in each table: migrations that were done, that failed, that were lost and that are open, and all the rest.

    ``store``: an empty one, whose clock is a FakeClock at 1000; ``lock``: taken. ``seen``: has a plan with moves.
    """
    assert isinstance(store.clock, FakeClock)
    store.lead(lock, "machine")
    made = plan(seen, thesis_policy())
    assert made.moves
    for number, outcome in enumerate((DONE, DONE, FAILED, None)):
        store.clock.at = 1000.0 + 100 * number
        for migration_id, _ in record(store, made, store.clock.at, acted=True, snapshot=seen, policy=thesis_policy()):
            store.begin(migration_id)
            if outcome is not None:
                store.end(migration_id, outcome)
    first, *_ = store.recall(moved_since=0, ended_since=0, judged_since=0).due
    measured = Measured(verdict="measured", window=(1020.0, 1080.0), ratio=0.5, error=0.05)
    store.commit(
        Changes(
            backoffs=(Backoff(host="h1", counted_from=1000.0, penalty_from=1000.0, penalty_until=1190.0, failures=1),),
            verdicts={first.id: measured},
            cycle=next_cycle(1500.0, CycleResult.IDLE, "calm", None),
            brake=Brake(at=1500.0, cause=BrakeCause.MIGRATIONS, why="the newest migrations of 3 domains failed"),
            look=Look(sightings=SIGHTINGS, changes=(BY_OTHERS,), same=False),
        ),
        1500.0,
    )
    store.order_drain("h3", draining=True)
    store.override("mode", OverrideValue(value="automatic", instead_of="recommend", at=1.0, who="alice"))
    store.release(OverrideValue(value="migrations", instead_of="", at=1600.0, who="alice"))
    store.remember_host("h1", "{}")
    store.record_action(Action(at=1.0, who="alice", origin="command", action="drain", accepted=True, answer="yes"))
    with store.database.reading() as connection:
        empty = [
            one.name for one in metadata.sorted_tables if not connection.scalar(select(func.count()).select_from(one))
        ]
    assert empty == []
