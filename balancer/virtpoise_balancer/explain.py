"""Why a domain is (not) moved, why a host is (not) relieved and (not) a destination: the plan, read for one name."""

from __future__ import annotations

from dataclasses import dataclass

from virtpoise_balancer import words
from virtpoise_balancer.analyse.overload import consecutive
from virtpoise_balancer.model import Domain, DomainState, Host, HostState, Plan, Policy, Prediction, Snapshot
from virtpoise_balancer.plan.problems import no_destination


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """``kind``: host or domain; ``verdict`` in one sentence, and the ``reasons`` behind it, each a sentence."""

    name: str
    kind: str
    verdict: str
    reasons: tuple[str, ...] = ()


def explain(snapshot: Snapshot, policy: Policy, plan: Plan, name: str) -> tuple[Explanation, ...]:
    """One explanation for the host and for each domain of this name (or uuid); none when there is no such thing."""
    found = [of_host(snapshot, policy, plan, host) for host in snapshot.hosts if host.name == name]
    found += [
        of_domain(snapshot, policy, plan, domain) for domain in snapshot.domains if name in (domain.name, domain.uuid)
    ]
    return tuple(found)


def of_domain(snapshot: Snapshot, policy: Policy, plan: Plan, domain: Domain) -> Explanation:
    move = next((move for move in plan.moves if move.uuid == domain.uuid), None)
    if move is not None:
        source, destination = move.predicted.source, move.predicted.destination
        return Explanation(
            name=domain.name,
            kind="domain",
            verdict=f"{domain.name} is to be moved from {move.source} to {move.destination}.",
            reasons=(
                *([_sentence(move.why)] if move.why else []),
                f"{move.source} is then predicted at {_interval(source)}, {move.destination} at {_interval(destination)}.",
            ),
        )
    refused = [one for one in plan.refusals if one.domain == domain.name and one.host in (None, domain.host)]
    refused += [one for one in plan.refusals if one.domain == domain.name and one.host not in (None, domain.host)]
    reasons = [
        _sentence(f"{one.host}: {words.refusal(one)}" if one.host not in (None, domain.host) else words.refusal(one))
        for one in refused
    ]
    if not reasons:
        reasons = [_left_alone(snapshot, policy, plan, domain)]
    return Explanation(
        name=domain.name, kind="domain", verdict=f"{domain.name} stays on {domain.host}.", reasons=tuple(reasons)
    )


def _left_alone(snapshot: Snapshot, policy: Policy, plan: Plan, domain: Domain) -> str:
    host = snapshot.host(domain.host)
    if domain.state is not DomainState.RUNNING:
        return f"It is {domain.state}, and only running domains are moved."
    if host is None or not host.known:
        return f"{domain.host} is unknown: Prometheus has no fresh figures of it, so nothing is moved from it."
    if any(overload.host == host.name for overload in plan.overloaded):
        return f"{host.name} is overloaded, but is not worked on now: {plan.summary}."
    return f"{_standing(host, policy, snapshot)}, so nothing has to be moved off it."


def of_host(snapshot: Snapshot, policy: Policy, plan: Plan, host: Host) -> Explanation:
    leaving = [move for move in plan.moves if move.source == host.name]
    coming = [move for move in plan.moves if move.destination == host.name]
    reasons = [f"{_standing(host, policy, snapshot)}."] if host.known else []
    reasons += [f"{move.domain} is to leave for {move.destination}." for move in leaving]
    reasons += [f"{move.domain} is to come from {move.source}." for move in coming]
    own = [one for one in plan.refusals if one.host == host.name and one.domain is None]
    reasons += [_sentence(words.refusal(one)) for one in own]
    here = {domain.name for domain in snapshot.domains if domain.host == host.name}
    reasons += [
        _sentence(f"{one.domain} does not come: {words.refusal(one)}")
        for one in plan.refusals
        if one.host == host.name and one.domain is not None and one.domain not in here
    ]
    closed = no_destination(host)
    overloaded = any(overload.host == host.name for overload in plan.overloaded)
    if coming:
        verdict = f"{host.name} is a destination in this plan."
    elif closed is not None:
        verdict = f"{host.name} is no destination."
        if not own:
            reasons.append(_sentence(words.refusal(closed)))
    elif overloaded:
        verdict = f"{host.name} is overloaded, so it is no destination."
    elif plan.moves or plan.attempts:
        verdict = f"{host.name} could take domains, but this plan sends none there."
    else:
        verdict = f"{host.name} could take domains, but nothing has to be moved."
    return Explanation(name=host.name, kind="host", verdict=verdict, reasons=tuple(reasons))


def _standing(host: Host, policy: Policy, snapshot: Snapshot) -> str:
    trigger = policy.cpu
    count = consecutive(host, trigger, snapshot)
    state = "" if host.state is HostState.ACTIVE else f" ({host.state})"
    load = f"{host.name}{state} is at {words.percent(host.load)} CPU"
    threshold = words.percent(trigger.threshold)
    if count == 0:
        return f"{load}, below the threshold of {threshold}" if host.load < trigger.threshold else load
    times = "once" if count == 1 else f"{count} times in a row"
    return f"{load}, {times} at or above {threshold} ({trigger.consecutive} make it a problem)"


def _interval(prediction: Prediction) -> str:
    ratio, lower, upper = prediction.cpu_ratio, prediction.cpu_ratio_lower, prediction.cpu_ratio_upper
    if lower == upper:
        return words.percent(ratio)
    return f"{words.percent(ratio)} ({words.percent(lower)} to {words.percent(upper)})"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")
