"""The page /plan: the newest plan's moves, refusals and scores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from starlette.requests import Request

from virtpoise_balancer.explain import wording
from virtpoise_balancer.model import Host, Move, Plan, Policy, Refusal, Snapshot
from virtpoise_balancer.web.kept import KeptAnswer
from virtpoise_balancer.web.page.parts import Anchor, MoveEnd, domain_link, host_link, planned_end
from virtpoise_balancer.web.page.writer import Writer

_MOST_REFUSALS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveCard:
    """A move of the plan. ``needs``: uuids of the domains whose moves have to be made with it."""

    uuid: str
    destination_name: str
    domain: Anchor
    source: Anchor
    destination: Anchor
    why: str
    wave: int
    scores: str
    cost: str
    ends: tuple[MoveEnd, ...]
    needs: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusalGroup:
    """The refusals with one reason: how many there are, and of those that are shown the domain, the host and the
    numbers.
    """

    reason: str
    count: int
    shown: tuple[tuple[Anchor | None, Anchor | None, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanView:
    """What the page /plan shows.

    ``hosts`` and ``domains``: each with its score before the first move, the highest first.
    """

    summary: str
    solved: bool
    moves: tuple[MoveCard, ...]
    refusals: tuple[RefusalGroup, ...]
    hosts: tuple[tuple[Anchor, str], ...]
    domains: tuple[tuple[str, str], ...]


def plan_page(writer: Writer, request: Request) -> KeptAnswer:
    """The page /plan: the newest plan, from which a person can apply moves."""
    state = writer.state
    found = None
    if state.plan is not None and state.snapshot is not None:
        found = plan_view(state.plan, state.snapshot, state.policy)
    return writer.page(request, "plan.html", found=found)


def plan_view(plan: Plan, snapshot: Snapshot, policy: Policy) -> PlanView:
    """The plan as the page shows it."""
    hosts = {host.name: host for host in snapshot.hosts}
    return PlanView(
        summary=wording.headline(plan.summary, hosts),
        solved=plan.solved,
        moves=tuple(_moves(plan, hosts, policy)),
        refusals=_refusals(plan.refusals, hosts),
        hosts=tuple((host_link(name), f"{score:.3f}") for name, score in _by_score(plan.scores.hosts)),
        domains=tuple((name, f"{score:.3f}") for name, score in _by_score(plan.scores.domains)),
    )


def _by_score(scores: Mapping[str, float]) -> list[tuple[str, float]]:
    return sorted(scores.items(), key=lambda one: (-one[1], one[0]))


def _moves(plan: Plan, hosts: Mapping[str, Host], policy: Policy) -> Iterable[MoveCard]:
    for move in plan.moves:
        resource = plan.resources_of(move)[0]
        yield MoveCard(
            uuid=move.uuid,
            destination_name=move.destination,
            domain=domain_link(move.domain, move.uuid),
            source=host_link(move.source),
            destination=host_link(move.destination),
            why=wording.headline(move.why, hosts) if move.why else "",
            wave=move.wave,
            scores=", ".join(_scores(move)),
            cost=wording.copying(move),
            ends=(
                planned_end("source", move.source, hosts, move.predicted.source, resource, policy),
                planned_end("destination", move.destination, hosts, move.predicted.destination, resource, policy),
            ),
            needs=move.needs,
        )


def _scores(move: Move) -> Iterable[str]:
    """The domain's score, and the destination's before and after the move; nothing for a plan that has none."""
    if move.domain_score is not None:
        yield f"domain {move.domain_score:.3f}"
    if move.destination_score_before is not None and move.destination_score is not None:
        yield f"{move.destination} {move.destination_score_before:.3f} → {move.destination_score:.3f}"


def _refusals(refusals: Sequence[Refusal], hosts: Mapping[str, Host]) -> tuple[RefusalGroup, ...]:
    counts = Counter(refusal.reason for refusal in refusals)
    left = _MOST_REFUSALS
    groups = []
    for reason, count in sorted(counts.items(), key=lambda one: (-one[1], one[0])):
        shown = [refusal for refusal in refusals if refusal.reason is reason][: max(left, 1)]
        left -= len(shown)
        groups.append(
            RefusalGroup(
                reason=wording.headline(wording.reason(reason)),
                count=count,
                shown=tuple((_domain(one), _host(one, hosts), wording.figures(one)) for one in shown),
            )
        )
    return tuple(groups)


def _domain(one: Refusal) -> Anchor | None:
    if one.domain is None:
        return None
    return domain_link(one.domain, one.domain if one.uuid is None else one.uuid)


def _host(one: Refusal, hosts: Mapping[str, Host]) -> Anchor | None:
    return host_link(one.host) if one.host is not None and one.host in hosts else None
