"""Which domains to move where. Pure and deterministic: the same snapshot and policy give the same plan."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import NamedTuple

from virtpoise_balancer.garbage import no_collections
from virtpoise_balancer.model import LinkSpeed, Move, Plan, Policy, Refusal, Snapshot, not_copied
from virtpoise_balancer.plan import copying, default, thesis
from virtpoise_balancer.plan.copying import plan_sparingly
from virtpoise_balancer.plan.default.consider import Considering
from virtpoise_balancer.plan.post_copy import with_post_copy
from virtpoise_balancer.plan.unmatched import notes


class Strategy(NamedTuple):
    """One way to decide.

    ``plan``: what to do about a snapshot. ``predict``: some moves of such a plan, with what each leaves on its hosts if
    these alone are made in this order. ``refusal``: why the destination of one of its moves would not take the domain
    now, or None; both hosts are known, and the domain runs on the source. ``considering``: what answers for any domain
    and any host; None: the strategy has no such answer.
    """

    plan: Callable[[Snapshot, Policy], Plan]
    predict: Callable[[Snapshot, Policy, Sequence[Move]], tuple[Move, ...]]
    refusal: Callable[[Snapshot, Policy, Move], Refusal | None]
    considering: Callable[[Snapshot, Policy], Considering] | None = None


STRATEGIES = {
    "default": Strategy(default.plan, default.predict, default.refusal, Considering),
    "thesis": Strategy(thesis.plan, thesis.predict, thesis.refusal),
}


def plan(snapshot: Snapshot, policy: Policy) -> Plan:
    """The plan of the policy's strategy, with notes on names in the policy that the group lacks."""
    with no_collections():
        return _plan(snapshot, policy)


def _plan(snapshot: Snapshot, policy: Policy) -> Plan:
    made = plan_sparingly(snapshot, policy, STRATEGIES[policy.strategy].plan)
    copies = {domain.uuid: domain.copies for domain in filter(attrgetter("copies"), snapshot.domains)}
    with_speed = filter(attrgetter("uplink_bytes_per_second"), snapshot.hosts)
    uplinks = {host.name: host.uplink_bytes_per_second for host in with_speed}
    links = {(link.source, link.destination): link for link in snapshot.links}
    moves = tuple(_with_link(move, uplinks, links.get((move.source, move.destination))) for move in made.moves)
    if copies:
        moves = tuple(copying.with_copies(move, copies.get(move.uuid, ())) for move in moves)
    return replace(made, moves=with_post_copy(moves, snapshot), notes=notes(snapshot, policy))


def _with_link(move: Move, uplinks: Mapping[str, float | None], link: LinkSpeed | None) -> Move:
    """The move with what is known of the way between its hosts. ``link``: of earlier migrations."""
    source, destination = uplinks.get(move.source), uplinks.get(move.destination)
    if link is None and not (source and destination):
        return move
    return replace(
        move,
        link_bytes_per_second=min(source, destination) if source and destination else None,
        seconds=move.cost_bytes / link.bytes_per_second if link and move.cost_bytes is not None else None,
        downtime_seconds=link.downtime_seconds if link else None,
    )


def predict(snapshot: Snapshot, policy: Policy, moves: Sequence[Move]) -> tuple[Move, ...]:
    """What each move leaves on its hosts if these moves alone are made in this order, by the policy's strategy."""
    return STRATEGIES[policy.strategy].predict(snapshot, policy, moves)


def refusal(snapshot: Snapshot, policy: Policy, move: Move) -> Refusal | None:
    """Why the destination of a planned move would not take the domain now, by the policy's strategy, or None."""
    domain = next((one for one in snapshot.domains if one.uuid == move.uuid), None)
    if domain is not None and not_copied(domain.copies, move.copies):  # that was not known when it was planned
        return copying.refusal(domain)
    return STRATEGIES[policy.strategy].refusal(snapshot, policy, move)


def considering(snapshot: Snapshot, policy: Policy) -> Considering | None:
    """What answers for any domain and any host, or None where the policy's strategy has no such answer."""
    of = STRATEGIES[policy.strategy].considering
    return None if of is None else of(copying.held_back(snapshot), policy)
