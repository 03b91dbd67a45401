"""Short ways to write to a store what a cycle would write."""

from builders import group
from virtpoise_balancer.control.decide import gist_of
from virtpoise_balancer.knowledge.records import Changes, NewPlan
from virtpoise_balancer.knowledge.store import Store
from virtpoise_balancer.model import Entries, Plan, Policy, Snapshot


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
