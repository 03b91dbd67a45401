"""The page /hosts/NAME: a host's use, its domains, why it is (not) relieved or a destination, and its migrations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from starlette.requests import Request

from virtpoise_balancer.analyse.drains import is_draining
from virtpoise_balancer.analyse.host_limits import trigger_of
from virtpoise_balancer.errors import NotKnown, Refused
from virtpoise_balancer.explain import wording
from virtpoise_balancer.model import Domain, DomainState, Host, Plan, Refusal, Resource
from virtpoise_balancer.web.detail import host_detail, seen
from virtpoise_balancer.web.kept import KeptAnswer
from virtpoise_balancer.web.page.parts import MOST_MIGRATIONS, WIDTH, Anchor, domain_link, host_row, migration_card
from virtpoise_balancer.web.page.writer import Writer
from virtpoise_balancer.web.state import domains_by_host

_CURVE_HEIGHT = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainRow:
    """A domain on the host. CPU, delay and network are shares of the host; ``why``: what the plan does with it."""

    domain: Anchor
    state: DomainState
    vcpus: int
    cpu: str
    delay: str
    memory: str
    network: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """The host's CPU samples as a line, in a drawing WIDTH wide and 200 high. ``mark``: the height of the threshold."""

    points: str
    mark: float
    first: str
    text: str


def host_page(writer: Writer, request: Request) -> KeptAnswer:
    """The page /hosts/NAME: the host's load, its domains, why it is or is not relieved."""
    state = writer.state
    try:
        detail = host_detail(state, writer.context.published.statuses(state), request.path_params["name"])
    except (NotKnown, Refused) as error:
        return writer.error(request, str(error), 404)
    snapshot = seen(state)
    host = next(one for one in snapshot.hosts if one.name == detail.status.name)
    domains = domains_by_host(snapshot).get(host.name, [])
    history = writer.context.store.history(MOST_MIGRATIONS, host=host.name)
    return writer.page(
        request,
        "host.html",
        status=detail.status,
        explanation=detail.explanation,
        row=host_row(state.policy, host, detail.status, domains, named=False),
        curve=curve(host.cpu_ratio, snapshot.step_seconds, trigger_of(host, Resource.CPU, state.policy).threshold),
        domains=domain_rows(domains, host, state.plan),
        migrations=[migration_card(record, state) for record in history],
        drained=is_draining(host.name, state.drains),
    )


def domain_rows(domains: Sequence[Domain], host: Host, plan: Plan | None) -> tuple[DomainRow, ...]:
    """The rows of the domains, the busiest first."""
    moves = {move.uuid: move.destination for move in plan.moves} if plan else {}
    refused: dict[str, Refusal] = {}
    for refusal in plan.refusals if plan else ():
        if refusal.uuid is not None:
            refused.setdefault(refusal.uuid, refusal)
    rows = []
    for domain in sorted(domains, key=lambda one: (-one.cpu_cores, one.name)):
        why = ""
        if domain.uuid in moves:
            why = f"to be migrated to {moves[domain.uuid]}"
        elif domain.uuid in refused:
            why = f"stays: {wording.reason(refused[domain.uuid].reason)}"
        rows.append(
            DomainRow(
                domain=domain_link(domain.name, domain.uuid),
                state=domain.state,
                vcpus=domain.vcpus,
                cpu=_share(domain.used_cores, host),
                delay=_share(domain.cpu_delay_cores, host),
                memory=wording.size(domain.memory_bytes or None),
                network=wording.percent(wording.busiest_direction(domain.rx_ratio, domain.tx_ratio)),
                why=why,
            )
        )
    return tuple(rows)


def _share(cores: float | None, host: Host) -> str:
    return wording.percent(None if cores is None else cores / host.cpus)


def curve(ratios: Sequence[float], step_seconds: float, threshold: float) -> Curve | None:
    """The samples as a line; None for fewer than two."""
    if len(ratios) < 2:
        return None
    step = WIDTH / (len(ratios) - 1)
    heights = [_CURVE_HEIGHT * (1 - min(ratio, 1.0)) for ratio in ratios]
    lowest, highest, newest = (wording.percent(ratio) for ratio in (min(ratios), max(ratios), ratios[-1]))
    return Curve(
        points=" ".join(f"{i * step:.1f},{height:.1f}" for i, height in enumerate(heights)),
        mark=round(_CURVE_HEIGHT * (1 - threshold), 1),
        first=wording.duration((len(ratios) - 1) * step_seconds),
        text=f"from {lowest} to {highest}, newest {newest}",
    )
