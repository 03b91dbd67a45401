"""Why a domain is (not) moved, why a host is (not) relieved and (not) a destination: the plan, read for one name."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from virtpoise_balancer.analyse.overload import consecutive
from virtpoise_balancer.explain import wording
from virtpoise_balancer.model import (
    NO_FIGURES,
    Domain,
    DomainState,
    Host,
    HostState,
    Plan,
    Policy,
    Prediction,
    Reason,
    Refusal,
    Snapshot,
    Trigger,
)
from virtpoise_balancer.plan.default.consider import Considerations, RuleVerdict, consider
from virtpoise_balancer.plan.problems import no_destination

_MOST_PASSED_OVER = 5
# Refusals of a domain by a host that it would come to; all others are about the domain where it is.
_BY_A_DESTINATION = frozenset(
    {
        Reason.DESTINATION_CPU,
        Reason.DESTINATION_CPUS,
        Reason.DESTINATION_MEMORY,
        Reason.DESTINATION_NETWORK,
        Reason.HOST_UNKNOWN,
        Reason.HOST_DRAINING,
        Reason.HOST_STANDBY,
        Reason.HOST_OVERLOADED,
        Reason.NAME_TAKEN,
        Reason.RULE_APART,
        Reason.RULE_ONLY_ON,
        Reason.RULE_NEVER_ON,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """A host as the domain's destination, as things are now: whether it would take it, and the numbers of that in words.

    ``room_ratio``: what would be left of the host's scarcest resource below its threshold; negative: so much is missing;
    None: nothing is known of the host.
    """

    host: str
    takes: bool
    why: str
    room_ratio: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """``kind``: host or domain; ``verdict`` in one sentence, and the ``reasons`` behind it, each a sentence.

    ``destinations``: of a domain, every other host, the best first; only the default strategy tells.
    """

    name: str
    kind: str
    verdict: str
    reasons: tuple[str, ...] = ()
    destinations: tuple[Destination, ...] = ()


def explain(snapshot: Snapshot, policy: Policy, plan: Plan, name: str) -> tuple[Explanation, ...]:
    """One explanation for the host and for each domain of this name (or uuid); none when there is no such thing."""
    found = [of_host(snapshot, policy, plan, host) for host in snapshot.hosts if host.name == name]
    found += [
        of_domain(snapshot, policy, plan, domain) for domain in snapshot.domains if name in (domain.name, domain.uuid)
    ]
    return tuple(found)


def not_seen(snapshot: Snapshot, name: str) -> str:
    """What to answer when there is no explanation: a domain that nobody sees may be on a host of which nothing is known."""
    unknown = [host.name for host in snapshot.hosts if host.state is HostState.UNKNOWN]
    if not unknown:
        return f"{name}: no host and no domain of the group has this name"
    return (
        f"{name}: no host and no domain that is seen has this name; a domain on an unknown host "
        f"({', '.join(unknown)}) is not seen, and nothing is moved from or to there"
    )


def of_domain(snapshot: Snapshot, policy: Policy, plan: Plan, domain: Domain) -> Explanation:
    considered = _considered(snapshot, policy, domain.uuid)
    move = next((move for move in plan.moves if move.uuid == domain.uuid), None)
    if move is not None:
        source, destination = move.predicted.source, move.predicted.destination
        verdict = f"{domain.name} is to be moved from {move.source} to {move.destination}."
        reasons = [_sentence(move.why, move.source, move.destination)] if move.why else []
        reasons.append(
            f"{move.source} is then predicted at {_interval(source)}, {move.destination} at {_interval(destination)}."
        )
    else:
        verdict = f"{domain.name} stays on {domain.host}."
        refused = _refused(snapshot, plan, domain)
        refused.sort(key=lambda one: one.host not in (None, domain.host))
        held = considered.held if considered else None
        if held and held not in refused and (held.reason is not Reason.LEAST_GAIN or _only_cpu(plan, domain.host)):
            refused.append(held)
        reasons = [
            _sentence(wording.refusal(one))
            if one.host in (None, domain.host)
            else _sentence(f"{one.host}: {wording.refusal(one)}", str(one.host))
            for one in refused
        ] or [_left_alone(snapshot, policy, plan, domain)]
    if considered:
        reasons.append(
            f"It wants {considered.demand_cores:.2f} cores ({considered.demand_lower_cores:.2f} to "
            f"{considered.demand_upper_cores:.2f}), {wording.percent(considered.gain_ratio)} of its host."
        )
    return Explanation(
        name=domain.name,
        kind="domain",
        verdict=verdict,
        reasons=tuple(reasons),
        destinations=_destinations(considered) if considered else (),
    )


def _refused(snapshot: Snapshot, plan: Plan, domain: Domain) -> list[Refusal]:
    """The plan's refusals of the domain. They name it without its uuid: where another has its name, those that are the other's by their
    hosts are left out.
    """
    named = [one for one in plan.refusals if one.domain == domain.name]
    others = {other.host for other in snapshot.domains if other.name == domain.name and other.uuid != domain.uuid}
    if not others:
        return named
    worked_on = {attempt.host for attempt in plan.attempts}

    def its_own(one: Refusal) -> bool:
        comes = one.reason in _BY_A_DESTINATION
        if one.host == domain.host:
            return not comes or domain.host in others
        if one.host in others and not comes:
            return False
        return domain.host in worked_on or not others & worked_on

    return [one for one in named if its_own(one)]


def _only_cpu(plan: Plan, host: str) -> bool:
    """Whether the host lacks CPU and nothing else: only then does it matter how much CPU a domain takes off it."""
    return {overload.resource for overload in plan.overloaded if overload.host == host} == {"cpu"}


def _considered(snapshot: Snapshot, policy: Policy, uuid: str) -> Considerations | None:
    return consider(snapshot, policy, uuid) if policy.strategy == "default" else None


def _destinations(considered: Considerations) -> tuple[Destination, ...]:
    found = []
    for one in considered.hosts:
        why = "would take it" if one.reason is None else wording.reason(one.reason)
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
    host = snapshot.host(domain.host)
    if domain.state is not DomainState.RUNNING:
        return f"It is {domain.state}, and only running domains are moved."
    if host is None or not host.known:
        unknown = (host and host.why_unknown) or NO_FIGURES
        return f"{domain.host} is unknown: {unknown.text}, so nothing is moved from it."
    if any(overload.host == host.name for overload in plan.overloaded):
        return f"{host.name} is overloaded, but is not worked on now: {plan.summary}."
    if host.state is HostState.DRAINING:
        return f"{host.name} is draining, but is not worked on now: {plan.summary}."
    return f"{_standing(host, policy, snapshot)}, so nothing has to be moved off it."


def of_host(snapshot: Snapshot, policy: Policy, plan: Plan, host: Host) -> Explanation:
    leaving = [move for move in plan.moves if move.source == host.name]
    coming = [move for move in plan.moves if move.destination == host.name]
    reasons = [f"{_standing(host, policy, snapshot)}."] if host.known else []
    reasons += [f"{move.domain} is to leave for {move.destination}." for move in leaving]
    reasons += [f"{move.domain} is to come from {move.source}." for move in coming]
    own = [one for one in plan.refusals if one.host == host.name and one.domain is None]
    reasons += [_sentence(wording.refusal(one)) for one in own]
    here = {domain.name for domain in snapshot.domains if domain.host == host.name}
    elsewhere = {domain.name for domain in snapshot.domains if domain.host != host.name}
    reasons += [
        _sentence(f"{one.domain} does not come: {wording.refusal(one)}", one.domain)
        for one in plan.refusals
        if one.host == host.name
        and one.domain is not None
        and (one.domain not in here or (one.reason in _BY_A_DESTINATION and one.domain in elsewhere))
    ]
    reasons += _passed_over(snapshot, policy, plan, host)
    closed = no_destination(host)
    overloaded = any(overload.host == host.name for overload in plan.overloaded)
    if coming:
        verdict = f"{host.name} is a destination in this plan."
    elif closed is not None:
        verdict = f"{host.name} is no destination."
        if not own:
            reasons.append(_sentence(wording.refusal(closed)))
    elif overloaded:
        verdict = f"{host.name} is overloaded, so it is no destination."
    elif plan.moves or plan.attempts:
        verdict = f"{host.name} could take domains, but this plan sends none there."
    else:
        verdict = f"{host.name} could take domains, but nothing has to be moved."
    return Explanation(name=host.name, kind="host", verdict=verdict, reasons=tuple(reasons))


def _passed_over(snapshot: Snapshot, policy: Policy, plan: Plan, host: Host) -> list[str]:
    """Why domains that are to be moved go elsewhere."""
    reasons = []
    elsewhere = [move for move in plan.moves if host.name not in (move.source, move.destination)]
    for move in elsewhere[:_MOST_PASSED_OVER]:
        considered = _considered(snapshot, policy, move.uuid)
        by_name = {one.host: one for one in considered.hosts} if considered else {}
        here, there = by_name.get(host.name), by_name.get(move.destination)
        if here is None or there is None:
            continue
        if here.reason is not None:
            why = wording.refusal(Refusal(host=host.name, reason=here.reason, detail=here.detail))
        elif there.reason is None:
            why = f"with it {wording.percent(here.room_ratio)} of this host's room would be left, there {wording.percent(there.room_ratio)}"
        else:
            why = "other moves make room there"
        reasons.append(_sentence(f"{move.domain} goes to {move.destination}: {why}", move.domain))
    return reasons


def _standing(host: Host, policy: Policy, snapshot: Snapshot) -> str:
    """The host's CPU load against its threshold; of memory and uplinks what is too much. The strategy `thesis` knows the CPU alone."""
    state = "" if host.state is HostState.ACTIVE else f" ({host.state})"
    load = f"{host.name}{state} is at {wording.percent(host.load)} CPU"
    said = [_against(load, policy.cpu, host, host.cpu_ratio, snapshot)]
    if policy.strategy == "default":
        for what, trigger, readings in (
            ("its memory is", policy.memory, host.memory_ratio_window or (host.memory_ratio,)),
            ("its uplink, receiving, is", policy.network, host.rx_ratio_window or (host.rx_ratio,)),
            ("its uplink, sending, is", policy.network, host.tx_ratio_window or (host.tx_ratio,)),
        ):
            if readings[-1] >= trigger.threshold:
                said.append(_against(f"{what} at {wording.percent(readings[-1])}", trigger, host, readings, snapshot))
    return "; ".join(said)


def _against(use: str, trigger: Trigger, host: Host, readings: Sequence[float], snapshot: Snapshot) -> str:
    count = consecutive(host, trigger, snapshot, readings)
    threshold = wording.percent(trigger.threshold)
    if count == 0:
        return f"{use}, below the threshold of {threshold}" if readings[-1] < trigger.threshold else use
    times = "once" if count == 1 else f"{count} times in a row"
    return f"{use}, {times} at or above {threshold} ({trigger.consecutive} make it a problem)"


def _interval(prediction: Prediction) -> str:
    ratio, lower, upper = prediction.cpu_ratio, prediction.cpu_ratio_lower, prediction.cpu_ratio_upper
    if lower == upper:
        return wording.percent(ratio)
    return f"{wording.percent(ratio)} ({wording.percent(lower)} to {wording.percent(upper)})"


def _sentence(text: str, *names: str) -> str:
    """The text as a sentence; ``names`` may begin it, and stay as they are."""
    return wording.headline(text, names) + ("" if text.endswith(".") else ".")
