"""Why a domain is (not) migrated, why a host is (not) relieved and (not) a destination: the plan, read for one name."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from virtpoise_balancer.analyse.overload import consecutive
from virtpoise_balancer.analyse.triggers import watched
from virtpoise_balancer.explain import wording
from virtpoise_balancer.model import (
    NO_FIGURES,
    Domain,
    DomainState,
    Host,
    HostState,
    Plan,
    Policy,
    Reason,
    Refusal,
    Resource,
    Snapshot,
    Trigger,
    count_samples,
)
from virtpoise_balancer.plan import considering
from virtpoise_balancer.plan.default.consider import Considerations, RuleVerdict
from virtpoise_balancer.plan.problems import no_destination

_MOST_PASSED_OVER = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """A host as the domain's destination, as things are now: whether it would take it, and why, with the numbers.

    ``room_ratio``: the share of the host's scarcest resource that would be left below its threshold. Negative: that
    share is missing. None: the host is unknown.
    """

    host: str
    takes: bool
    why: str
    room_ratio: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Why a host or a domain is treated as it is.

    ``kind``: host or domain; ``verdict``: one sentence; ``reasons``: the sentences behind it.

    ``destinations``: for a domain every other host, the best first; empty where the strategy does not answer for pairs.
    """

    name: str
    kind: str
    verdict: str
    reasons: tuple[str, ...] = ()
    destinations: tuple[Destination, ...] = ()


def explain(snapshot: Snapshot, policy: Policy, plan: Plan, name: str) -> tuple[Explanation, ...]:
    """One explanation for the host and for each domain of this name (or uuid); empty if there is neither."""
    found = [of_host(snapshot, policy, plan, host) for host in snapshot.hosts if host.name == name]
    found += [
        of_domain(snapshot, policy, plan, domain) for domain in snapshot.domains if name in (domain.name, domain.uuid)
    ]
    return tuple(found)


def not_seen(snapshot: Snapshot, name: str) -> str:
    """The answer for a name that the snapshot does not have. Its domain may be on an unknown host."""
    unknown = [host.name for host in snapshot.hosts if host.state is HostState.UNKNOWN]
    if not unknown:
        return f"{name}: no host and no domain of the group has this name"
    return (
        f"{name}: no host and no visible domain of the group has this name; domains on an unknown host "
        f"({', '.join(unknown)}) are not visible, and nothing is migrated to or from there"
    )


# --- a domain ---------------------------------------------------------------------------------------------------------


def of_domain(snapshot: Snapshot, policy: Policy, plan: Plan, domain: Domain) -> Explanation:
    """Why the domain is migrated, or why not, with every other host as a destination."""
    asked = considering(snapshot, policy)
    considered = asked.of(domain.uuid) if asked else None
    move = next((move for move in plan.moves if move.uuid == domain.uuid), None)
    if move is not None:
        verdict = f"{domain.name} is to be migrated from {move.source} to {move.destination}."
        reasons = [_sentence(move.why, move.source, move.destination)] if move.why else []
        reasons += [
            f"After that the {resource.use} of {move.source} is predicted at "
            f"{wording.interval(move.predicted.source, resource)}, and that of {move.destination} at "
            f"{wording.interval(move.predicted.destination, resource)}."
            for resource in plan.resources_of(move)
        ]
    else:
        verdict = f"{domain.name} stays on {domain.host}."
        reasons = [_refused(one, domain) for one in _refusals(plan, domain, considered)]
        reasons = reasons or [_left_alone(snapshot, policy, plan, domain)]
    if considered:
        reasons.append(
            f"Its demand is {considered.demand_cores:.2f} cores ({considered.demand_lower_cores:.2f} to "
            f"{considered.demand_upper_cores:.2f}), and it counts as {wording.percent(considered.gain_ratio)} of its host."
        )
    return Explanation(
        name=domain.name,
        kind="domain",
        verdict=verdict,
        reasons=tuple(reasons),
        destinations=_destinations(considered) if considered else (),
    )


def _refusals(plan: Plan, domain: Domain, considered: Considerations | None) -> list[Refusal]:
    """The plan's refusals of the domain, those about the domain itself first; then what holds it on its host."""
    found = [one for one in plan.refusals if one.uuid == domain.uuid]
    found.sort(key=lambda one: one.host not in (None, domain.host))
    held = considered.held if considered else None
    if held and held not in found and (held.reason is not Reason.LEAST_GAIN or _lacks_only_cpu(plan, domain.host)):
        found.append(held)
    return found


def _refused(one: Refusal, domain: Domain) -> str:
    if one.host in (None, domain.host):
        return _sentence(wording.refusal(one))
    return _sentence(f"{one.host}: {wording.refusal(one)}", str(one.host))


def _lacks_only_cpu(plan: Plan, host: str) -> bool:
    """Whether the host is overloaded in its CPU alone. Only then does it matter how much CPU a domain takes off it."""
    return {overload.resource for overload in plan.overloaded if overload.host == host} == {Resource.CPU}


def _destinations(considered: Considerations) -> tuple[Destination, ...]:
    found = []
    for one in considered.hosts:
        why = "would take it" if one.reason is None else wording.reason(one.reason, one.detail)
        numbers = ", ".join(filter(None, (wording.details(one.detail), *map(_rule, one.rules))))
        found.append(
            Destination(
                host=one.host,
                takes=one.reason is None,
                why=f"{why} ({numbers})" if numbers else why,
                room_ratio=round(one.room_ratio, 6) if math.isfinite(one.room_ratio) else None,
            )
        )
    return tuple(sorted(found, key=_best_first))


def _rule(one: RuleVerdict) -> str:
    return f"{'' if one.hard else 'soft '}rule {one.rule} {'kept' if one.kept else 'broken'}"


def _best_first(one: Destination) -> tuple[bool, float, str]:
    return (not one.takes, math.inf if one.room_ratio is None else -one.room_ratio, one.host)


def _left_alone(snapshot: Snapshot, policy: Policy, plan: Plan, domain: Domain) -> str:
    """Why the plan does not mention the domain."""
    host = snapshot.host(domain.host)
    if domain.state is not DomainState.RUNNING:
        return f"It is {domain.state}, and only running domains are migrated."
    if host is None or not host.known:
        unknown = (host and host.why_unknown) or NO_FIGURES
        return f"{domain.host} is unknown: {unknown.text}, so nothing is migrated from it."
    if any(overload.host == host.name for overload in plan.overloaded):
        theirs = [one for one in plan.refusals if one.host == host.name and one.reason is Reason.NOT_WORTH]
        why = wording.refusal(theirs[0]) if theirs else plan.summary
        return f"{host.name} is overloaded, but this plan does not attempt to relieve it: {why}."
    if host.state is HostState.DRAINING:
        return f"{host.name} is draining, but this plan does not attempt to drain it: {plan.summary}."
    return f"{_load(host, policy, snapshot)}, so nothing has to be moved off it."


# --- a host -----------------------------------------------------------------------------------------------------------


def of_host(snapshot: Snapshot, policy: Policy, plan: Plan, host: Host) -> Explanation:
    """Whether the host has a problem, what is done about it, and whether it is a destination."""
    leaving = [move for move in plan.moves if move.source == host.name]
    coming = [move for move in plan.moves if move.destination == host.name]
    own = [one for one in plan.refusals if one.host == host.name and one.domain is None]
    reasons = [f"{_load(host, policy, snapshot)}."] if host.known else []
    reasons += [f"{move.domain} is to be migrated to {move.destination}." for move in leaving]
    reasons += [f"{move.domain} is to be migrated here from {move.source}." for move in coming]
    reasons += [_sentence(wording.refusal(one)) for one in own]
    reasons += _not_taken(snapshot, plan, host)
    reasons += _passed_over(snapshot, policy, plan, host)
    closed = no_destination(host)
    if closed is not None and not own:
        reasons.append(_sentence(wording.refusal(closed)))
    verdict = _host_verdict(plan, host, closed, is_destination=bool(coming))
    return Explanation(name=host.name, kind="host", verdict=verdict, reasons=tuple(reasons))


def _host_verdict(plan: Plan, host: Host, closed: Refusal | None, *, is_destination: bool) -> str:
    if is_destination:
        return f"{host.name} is a destination in this plan."
    if closed is not None:
        return f"{host.name} is not a destination."
    if any(overload.host == host.name for overload in plan.overloaded):
        return f"{host.name} is overloaded, so it is not a destination."
    if plan.moves or plan.attempts:
        return f"{host.name} could take domains, but this plan migrates none there."
    return f"{host.name} could take domains, but nothing has to be moved."


def _not_taken(snapshot: Snapshot, plan: Plan, host: Host) -> list[str]:
    """Why the host does not take the domains of other hosts that the plan considered for it."""
    here = {domain.uuid for domain in snapshot.domains if domain.host == host.name}
    return [
        _sentence(f"{one.domain} is not migrated here: {wording.refusal(one)}", one.domain)
        for one in plan.refusals
        if one.host == host.name and one.domain is not None and one.uuid not in here
    ]


def _passed_over(snapshot: Snapshot, policy: Policy, plan: Plan, host: Host) -> list[str]:
    """Why domains that are to be migrated go to other hosts."""
    reasons: list[str] = []
    elsewhere = [move for move in plan.moves if host.name not in (move.source, move.destination)]
    asked = considering(snapshot, policy) if elsewhere else None
    if asked is None:
        return reasons
    for move in elsewhere[:_MOST_PASSED_OVER]:
        considered = asked.of(move.uuid)
        by_name = {one.host: one for one in considered.hosts} if considered else {}
        here, there = by_name.get(host.name), by_name.get(move.destination)
        if here is None or there is None:
            continue
        if here.reason is not None:
            why = wording.refusal(Refusal(host=host.name, reason=here.reason, detail=here.detail))
        elif there.reason is None:
            why = (
                f"with it, {wording.percent(here.room_ratio)} of this host would be left below its threshold, "
                f"there {wording.percent(there.room_ratio)}"
            )
        else:
            why = "other moves make room there"
        reasons.append(_sentence(f"{move.domain} goes to {move.destination}: {why}", move.domain))
    return reasons


def _load(host: Host, policy: Policy, snapshot: Snapshot) -> str:
    """The host's CPU load against its threshold, and each other watched resource that is above its own."""
    state = "" if host.state is HostState.ACTIVE else f" ({host.state})"
    parts = []
    for resource, trigger, samples in watched(host, policy):
        now = wording.percent(samples[-1])
        if resource is Resource.CPU:
            use = f"{host.name}{state} is at {now} CPU"
        elif samples[-1] >= trigger.threshold:
            use = f"its {resource.use} is at {now}"
        else:
            continue
        parts.append(_against(use, trigger, host, samples, snapshot))
    return "; ".join(parts)


def _against(use: str, trigger: Trigger, host: Host, samples: Sequence[float], snapshot: Snapshot) -> str:
    """The use and how many of its newest samples count towards a problem."""
    count = consecutive(host, trigger, snapshot, samples)
    threshold = wording.percent(trigger.threshold)
    if count == 0:
        return f"{use}, below the threshold of {threshold}" if samples[-1] < trigger.threshold else use
    return f"{use}, {count_samples(count)} at or above {threshold} ({trigger.consecutive} make it a problem)"


def _sentence(text: str, *names: str) -> str:
    """The text as a sentence with a capital letter and a full stop. A name that begins it stays as it is."""
    return wording.headline(text, names) + ("" if text.endswith(".") else ".")
