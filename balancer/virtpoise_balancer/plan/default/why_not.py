"""Why a host does not take a candidate, with the numbers: for one host, and summed up over all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from virtpoise_balancer.analyse.calibration import FALLBACK
from virtpoise_balancer.analyse.demand import Floats
from virtpoise_balancer.model import Detail, Reason, Refusal, Resource, Role
from virtpoise_balancer.plan.default.candidates import Candidate
from virtpoise_balancer.plan.default.group import CPU
from virtpoise_balancer.plan.default.trial import Trial
from virtpoise_balancer.plan.possible import lacking
from virtpoise_balancer.plan.problems import no_destination
from virtpoise_balancer.plan.stocks import why_too_little

_OF_ROW = {resource.row: resource for resource in Resource}
_FULL = {
    Resource.CPU: Reason.DESTINATION_CPU,
    Resource.MEMORY: Reason.DESTINATION_MEMORY,
    Resource.RX: Reason.DESTINATION_NETWORK,
    Resource.TX: Reason.DESTINATION_NETWORK,
}


@dataclass(frozen=True, slots=True)
class HostCheck:
    """Whether a host takes a candidate. ``reason`` None: it does.

    ``room``: what is left of the scarcest resource, as a share of its limit; negative: missing.
    """

    host: str
    reason: Reason | None
    room: float
    detail: Detail


def check_host(trial: Trial, candidate: Candidate, host: int, after: Floats | None = None) -> HostCheck:
    """Whether the host would take the candidate, as the trial is now, or the first obstacle.

    ``after``: as ``Trial.after`` has it.
    """
    group = trial.group
    name = group.hosts[host].name
    limit = group.limit[:, host]
    if after is None:
        after = trial.after(candidate)
    share = after[:, host].copy()
    obstacle = _obstacle(trial, candidate, host)
    if obstacle:
        return HostCheck(name, obstacle[0], float(((limit - share) / limit).min()), obstacle[1])
    if may_be_more(trial, candidate, host, share):
        share[CPU] = max(share[CPU], trial.predicted(candidate, host))
    left = (limit - share) / limit
    full = np.flatnonzero(share >= limit)
    resource = _OF_ROW[int(full[0]) if len(full) else int(left.argmin())]
    detail = _figures(trial, candidate, host, resource, float(share[resource.row]))
    return HostCheck(name, _FULL[resource] if len(full) else None, float(left.min()), detail)


def may_be_more(trial: Trial, candidate: Candidate, host: int, share: Floats) -> bool:
    """Whether the whole prediction, which takes long for thousands of hosts, may pass a limit that the shares do not.

    The spread of a host that is half idle is a quarter at most: half of what lies between one kind of guests and the
    other.
    """
    group = trial.group
    if not (share < group.limit[:, host]).all():
        return False
    if group.hosts[host].cpu_speed > group.hosts[candidate.source].cpu_speed:
        return True
    quantile = group.quantiles[Role.DESTINATION, group.residents(candidate.source).saturated].above
    most = float(share[CPU]) + (candidate.wants - float(candidate.arrival[CPU])) * float(group.per_unit[CPU, host])
    return most + quantile / 4 >= float(group.limit[CPU, host])


def _figures(trial: Trial, candidate: Candidate, host: int, resource: Resource, after: float) -> Detail:
    group = trial.group
    unit, threshold = float(group.per_unit[resource.row, host]), float(group.limit[resource.row, host])
    above = group.residents(candidate.source).above
    figures: dict[str, float | int | str | None] = {
        f"{resource}_ratio": round(float(trial.use[resource.row, host]), 6),
        "domain_ratio": round(candidate.most(resource.row) * unit, 6),
        "predicted_upper_ratio": round(after, 6),
        "threshold": threshold,
    }
    learned = max(above - FALLBACK, 0.0) * float(group.noise[host]) if resource is Resource.CPU else 0.0
    if after >= threshold > after - learned:
        figures["learned_ratio"] = round(learned, 6)
    if after >= threshold:
        amount = (after - threshold) / unit
        if resource is Resource.CPU:
            figures["missing_cores"] = round(amount / group.hosts[host].cpu_speed, 6)
        else:
            figures["missing_bytes" if resource is Resource.MEMORY else "missing_bytes_per_second"] = int(amount)
    return figures


def _obstacle(trial: Trial, candidate: Candidate, host: int) -> tuple[Reason, Detail] | None:
    """The first obstacle other than room, or None."""
    group = trial.group
    refusal = no_destination(group.hosts[host])
    if refusal:
        return refusal.reason, refusal.detail
    if not trial.open[host] and group.taken[host]:
        return Reason.HOST_BUSY, {}
    if not trial.open[host]:
        return Reason.HOST_OVERLOADED, {"cpu_ratio": float(group.level[host])}
    vcpus = min(max(d.vcpus for d in candidate.domains), group.hosts[candidate.source].cpus)
    if group.hosts[host].cpus < vcpus:
        return Reason.DESTINATION_CPUS, {"cpus": group.hosts[host].cpus, "vcpus": vcpus}
    if lacks := lacking(group.hosts[host], candidate.domains):
        return lacks
    for stock, need in candidate.needs.items():
        if (free := float(trial.free(stock)[host])) < need:
            return why_too_little(stock, need, free)
    arriving = group.rules.bonds_among(candidate.domains)
    for domain in candidate.domains:
        if domain.name in group.repeated_names and (
            host in group.repeated_names[domain.name] or trial.placed_there(domain.name, host)
        ):
            return Reason.NAME_TAKEN, {"name": domain.name}
        if waits := group.backoff(domain.uuid, group.hosts[host].name):
            return Reason.BACKOFF, waits
        tie = group.rules.broken_tie(domain.uuid, host)
        if tie:
            return tie.kind.reason, tie.kind.why(tie.name)
        for number in group.rules.bonds_of.get(domain.uuid, ()):
            bond = group.rules.bonds[number]
            members = trial.members(number)
            there = bond.there(members, host, candidate.source, arriving[number])
            if bond.hard and not bond.takes(there, arriving[number], members.get(bond.zones[candidate.source], 0)):
                return bond.kind.reason, bond.kind.why_full(bond.name, there)
    return None


def nowhere(trial: Trial, candidate: Candidate) -> Refusal:
    """One refusal for a candidate that no host takes: the host that comes nearest, its reason, and the number of hosts
    by reason.
    """
    group = trial.group
    if len(group.hosts) < 2:
        return Refusal(
            domain=candidate.name, uuid=candidate.domains[0].uuid, reason=Reason.NO_DESTINATION, detail={"hosts": 0}
        )
    after = trial.after(candidate)
    room = group.room(after.copy())
    blocked = _blocked(trial, candidate)
    free = np.ones(len(group.hosts), dtype=np.bool_)
    free[[candidate.source, *blocked]] = False
    counts = Counter(blocked.values())
    first_over = (after[:, free] >= group.limit[:, free]).argmax(axis=0)
    for resource, reason in _FULL.items():
        counts[reason] += int((first_over == resource.row).sum())
    hosts = np.flatnonzero(free) if free.any() else np.array(sorted(blocked), dtype=np.intp)
    closest = check_host(trial, candidate, int(hosts[room[hosts].argmax()]), after)
    detail = {**closest.detail, **{f"hosts_{reason}": count for reason, count in sorted(counts.items()) if count}}
    reason = closest.reason or Reason.NO_DESTINATION
    return Refusal(
        domain=candidate.name, uuid=candidate.domains[0].uuid, host=closest.host, reason=reason, detail=detail
    )


def _blocked(trial: Trial, candidate: Candidate) -> Mapping[int, Reason]:
    """The hosts that refuse for another reason than room, with that reason."""
    group = trial.group
    blocked: dict[int, Reason] = {}
    hosts = np.flatnonzero(~trial.open).tolist()
    if candidate.allowed is not None:
        hosts += np.flatnonzero(~candidate.allowed).tolist()
    hosts += trial.refusing(candidate)
    for stock, need in candidate.needs.items():
        hosts += np.flatnonzero(trial.free(stock) < need).tolist()
    hosts += [host for domain in candidate.domains for host in group.repeated_names.get(domain.name, ())]
    for host in sorted(set(hosts) - {candidate.source}):
        obstacle = _obstacle(trial, candidate, host)
        if obstacle:
            blocked[host] = obstacle[0]
    return blocked
