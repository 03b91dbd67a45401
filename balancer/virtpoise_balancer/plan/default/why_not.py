"""Why a host does not take an item, with the numbers: for one host, and summed up over all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from virtpoise_balancer.analyse.demand import Floats
from virtpoise_balancer.model import Detail, Reason, Refusal, Role, RuleKind
from virtpoise_balancer.plan.default.candidates import Item
from virtpoise_balancer.plan.default.group import CPU, MEMORY
from virtpoise_balancer.plan.default.trial import Board
from virtpoise_balancer.plan.problems import no_destination

_REASONS = (
    Reason.DESTINATION_CPU,
    Reason.DESTINATION_MEMORY,
    Reason.DESTINATION_NETWORK,
    Reason.DESTINATION_NETWORK,
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """``reason`` None: the host would take it. ``room``: what would be left of the scarcest resource, as a share; negative: missing."""

    host: str
    reason: Reason | None
    room: float
    detail: Detail


def verdict(board: Board, item: Item, host: int, after: Floats | None = None) -> Verdict:
    """What stands against the item on the host, as the board is now; the first obstacle in the order in which they are mended."""
    group = board.group
    name = group.hosts[host].name
    limit = group.limit[:, 0]
    if after is None:
        after = board.after(item)
    share = after[:, host].copy()
    obstacle = _obstacle(board, item, host)
    if obstacle:
        return Verdict(name, obstacle[0], float(((limit - share) / limit).min()), obstacle[1])
    if may_be_more(board, item, host, share):
        share[CPU] = max(share[CPU], board.predicted(item, host))
    room = float(((limit - share) / limit).min())
    over = np.flatnonzero(share >= limit)
    resource = int(over[0]) if len(over) else int(((limit - share) / limit).argmin())
    detail = _figures(board, item, host, resource, float(share[resource]))
    return Verdict(name, _REASONS[resource] if len(over) else None, room, detail)


def may_be_more(board: Board, item: Item, host: int, share: Floats) -> bool:
    """Whether the whole prediction, which takes long for thousands of hosts, may pass a limit that the shares do not.

    The spread of a host that is half idle is a quarter at most: half of what lies between one kind of guests and the other.
    """
    group = board.group
    if not (share < group.limit[:, 0]).all():
        return False
    if group.hosts[host].cpu_speed > group.hosts[item.source].cpu_speed:
        return True
    reach = group.reaches[Role.DESTINATION, group.residents(item.source).saturated].above
    most = float(share[CPU]) + (item.wants - float(item.arrival[CPU])) * float(group.per_unit[CPU, host])
    return most + reach / 4 >= float(group.limit[CPU, 0])


def _figures(board: Board, item: Item, host: int, resource: int, after: float) -> Detail:
    group = board.group
    share = item.most(resource) * float(group.per_unit[resource, host])
    label = ("cpu", "memory", "rx", "tx")[resource]
    figures: dict[str, float | int | str | None] = {
        f"{label}_ratio": round(float(board.use[resource, host]), 6),
        "domain_ratio": round(share, 6),
        "predicted_upper_ratio": round(after, 6),
        "threshold": float(group.limit[resource, 0]),
    }
    missing = after - float(group.limit[resource, 0])
    if missing >= 0:
        amount = missing / float(group.per_unit[resource, host])
        if resource == CPU:
            figures["missing_cores"] = round(amount / group.hosts[host].cpu_speed, 6)
        else:
            figures["missing_bytes" if resource == MEMORY else "missing_bytes_per_second"] = int(amount)
    return figures


def _obstacle(board: Board, item: Item, host: int) -> tuple[Reason, Detail] | None:
    """What has nothing to do with room."""
    group = board.group
    refusal = no_destination(group.hosts[host])
    if refusal:
        return refusal.reason, refusal.detail
    if host == item.source:
        return Reason.NOT_NEEDED, {"where": "it is here"}
    if not board.open[host]:
        return Reason.HOST_OVERLOADED, {"cpu_ratio": float(group.level[host])}
    vcpus = min(max(d.vcpus for d in item.domains), group.hosts[item.source].cpus)
    if group.hosts[host].cpus < vcpus:
        return Reason.DESTINATION_CPUS, {"cpus": group.hosts[host].cpus, "vcpus": vcpus}
    for domain in item.domains:
        if domain.name in group.repeated_names and (
            host in group.repeated_names[domain.name] or board.placed_there(domain.name, host)
        ):
            return Reason.NAME_TAKEN, {"name": domain.name}
        for tie in group.rules.ties_of.get(domain.uuid, ()):
            if tie.hard and tie.kind is not RuleKind.PREFER:
                fits = bool(group.rules.matching(tie.hosts)[host])
                if fits is (tie.kind is RuleKind.NEVER_ON):
                    reason = Reason.RULE_ONLY_ON if tie.kind is RuleKind.ONLY_ON else Reason.RULE_NEVER_ON
                    return reason, {"rule": tie.name}
        for number in group.rules.bonds_of.get(domain.uuid, ()):
            bond = group.rules.bonds[number]
            if bond.hard and bond.kind is RuleKind.APART and board.members(number).get(host, 0):
                return Reason.RULE_APART, {"rule": bond.name}
    return None


def nowhere(board: Board, item: Item) -> Refusal:
    """One refusal for an item that no host takes: the host that comes nearest, its reason, and how many refuse for each reason."""
    group = board.group
    if len(group.hosts) < 2:
        return Refusal(domain=item.name, uuid=item.domains[0].uuid, reason=Reason.NO_DESTINATION, detail={"hosts": 0})
    after = board.after(item)
    room = group.room(after.copy())
    blocked = _blocked(board, item)
    free = np.ones(len(group.hosts), dtype=np.bool_)
    free[[item.source, *blocked]] = False
    counts = Counter(blocked.values())
    first_over = (after[:, free] >= group.limit).argmax(axis=0)
    for resource, reason in enumerate(_REASONS):
        counts[reason] += int((first_over == resource).sum())
    candidates = np.flatnonzero(free) if free.any() else np.array(sorted(blocked), dtype=np.intp)
    closest = verdict(board, item, int(candidates[room[candidates].argmax()]), after)
    detail = {**closest.detail, **{f"hosts_{reason}": count for reason, count in sorted(counts.items()) if count}}
    reason = closest.reason or Reason.NO_DESTINATION
    return Refusal(domain=item.name, uuid=item.domains[0].uuid, host=closest.host, reason=reason, detail=detail)


def _blocked(board: Board, item: Item) -> Mapping[int, Reason]:
    """The hosts that something other than room stands against."""
    group = board.group
    blocked: dict[int, Reason] = {}
    candidates = np.flatnonzero(~board.open).tolist()
    if item.allowed is not None:
        candidates += np.flatnonzero(~item.allowed).tolist()
    candidates += board.kept_apart(item, hard=True)
    candidates += [host for domain in item.domains for host in group.repeated_names.get(domain.name, ())]
    for host in sorted(set(candidates)):
        obstacle = _obstacle(board, item, host)
        if obstacle:
            blocked[host] = obstacle[0]
    return blocked
