"""A plan in one sentence: what is done and why, or why nothing is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from virtpoise_balancer.model import (
    Attempt,
    Move,
    Overload,
    Policy,
    Prediction,
    Problem,
    Reason,
    Refusal,
    Resource,
    count_samples,
)

# Why nothing is moved off a host with a problem, by the reason that domains of it have; the last that there is counts.
_WHY_NONE = {
    Reason.LEAST_GAIN: "each domain that can be moved would relieve it too little",
    Reason.MOVE_LIMIT: "as many domains as the policy allows are moved already",
}
_NOWHERE = "no domain can be moved to another host"
# Problems that are no use of a resource.
_NO_LEVEL = (Problem.DRAIN, Problem.RULE)
# By what a group is evened out that is a use of a resource.
_LEVELS = {"cpu": Resource.CPU, "memory": Resource.MEMORY}


def summarise(
    policy: Policy,
    overloaded: Sequence[Overload],
    attempts: Sequence[Attempt],
    moves: Sequence[Move],
    held: Sequence[Refusal],
    unrepaired: Sequence[str] = (),
    unsolved: Sequence[Refusal] = (),
    uneven: str | None = None,
) -> str:
    """The sentence for a plan of these parts.

    ``unrepaired``: the broken rules that should be repaired and are not. ``unsolved``: refusals, among them what hosts
    lack that are not relieved. ``uneven``: that the group is, and stays so.
    """
    if not attempts and not held and not unrepaired and not uneven:
        return _idle(policy)
    found: dict[str, list[Overload]] = defaultdict(list)
    for overload in overloaded:
        found[overload.host].append(overload)
    short = {str(one.host): one for one in unsolved if one.reason is Reason.UNSOLVED}
    leaving: dict[tuple[str, Problem | None], list[Move]] = defaultdict(list)
    for move in moves:
        leaving[move.source, move.problem].append(move)
    why_none = {str(one.host): why for reason, why in _WHY_NONE.items() for one in unsolved if one.reason is reason}
    parts = [
        _attempt(
            one, found, leaving[one.host, one.problem], short.get(one.host), why_none.get(one.host, _NOWHERE), policy
        )
        for one in attempts
    ]
    parts += [_held(refusal, found) for refusal in held]
    parts += [f"the rule {rule} stays broken" for rule in dict.fromkeys(unrepaired)]
    return "; ".join([*parts, uneven] if uneven else parts)


def _idle(policy: Policy) -> str:
    """Why nothing is done: what was watched, with the threshold of each resource."""
    watched = {resource.label: policy.trigger(resource) for resource in policy.traits.watched}
    counts = {trigger.consecutive for trigger in watched.values()}
    own = ["or the host's own"] if policy.hosts and policy.traits.limits_of_hosts else []
    if len(counts) > 1:
        levels = [f"{name}: {one.consecutive} at {one.threshold:.0%}" for name, one in watched.items()] + own
        return (
            f"no host has had enough consecutive samples at or above a threshold ({', '.join(levels)}); nothing to do"
        )
    count = counts.pop()
    levels = [f"{name} {one.threshold:.0%}" for name, one in watched.items()] + own
    return f"no host has had {count_samples(count)} at or above a threshold ({', '.join(levels)}); nothing to do"


def _problem(host: str, problem: Problem, overloads: Mapping[str, Sequence[Overload]]) -> str:
    if problem is Problem.RULE:
        return f"a rule is broken on {host}"
    if problem is Problem.IMBALANCE:
        return f"the group is uneven and {host} its busiest host"
    if problem is Problem.DRAIN:
        return f"{host} is draining"
    if problem is Problem.FORESEEN:
        return f"{host} is expected to be overloaded"
    levels = ", ".join(f"{one.resource.use} {one.ratio:.0%}" for one in overloads[host])
    return f"{host} is overloaded ({levels}, {count_samples(min(one.consecutive for one in overloads[host]))})"


def _attempt(
    attempt: Attempt,
    overloads: Mapping[str, Sequence[Overload]],
    moves: Sequence[Move],
    unsolved: Refusal | None,
    why_none: str,
    policy: Policy,
) -> str:
    problem = _problem(attempt.host, attempt.problem, overloads)
    by = policy.imbalance.by if policy.imbalance and attempt.problem is Problem.IMBALANCE else "cpu"
    if policy.imbalance and by != "cpu":
        problem = f"the group is uneven in its {policy.imbalance.what}, and {attempt.host} has most"
    if not moves:
        made = f"{problem} and {why_none}"
    else:
        listed = ", ".join(f"{move.domain} to {move.destination}" for move in moves[:5])
        more = f" and {len(moves) - 5} more" if len(moves) > 5 else ""
        about = [one.resource for one in overloads.get(attempt.host, ())] or [_LEVELS.get(by, Resource.CPU)]
        without = attempt.problem in _NO_LEVEL or by not in _LEVELS
        end = "" if without else _end(attempt.host, moves[-1].predicted.source, about, solved=attempt.solved)
        parts = [part for part in (end, "" if attempt.solved else "which does not solve it") if part]
        made = f"{problem}: move {listed}{more}" + (f" ({', '.join(parts)})" if parts else "")
    return ", ".join([made, *_rest(unsolved)])


def _end(host: str, predicted: Prediction, resources: Sequence[Resource], *, solved: bool) -> str:
    """What the host's use of these resources comes to: "h1's CPU load is predicted at 55%, its memory use at 80%".

    Where that does not solve the problem, with the upper end of the interval, which is what counts.
    """
    levels = []
    for one in resources:
        ratio, upper = predicted.ratio(one), predicted.upper(one)
        if ratio is not None:
            more = f" or up to {upper:.0%}" if not solved and upper is not None and upper > ratio else ""
            levels.append((one.use, f"{ratio:.0%}{more}"))
    first = [f"{host}'s {use} is predicted at {level}" for use, level in levels[:1]]
    return ", ".join(first + [f"its {use} at {level}" for use, level in levels[1:]])


def _rest(unsolved: Refusal | None) -> Iterator[str]:
    """What stays of a problem that no move takes away."""
    detail = unsolved.detail if unsolved else {}
    if own := detail.get("own_ratio"):
        yield f"{own:.0%} are the host's own"
    if left := detail.get("domains_left"):
        yield f"{left} domain{' stays' if left == 1 else 's stay'}"


def _held(refusal: Refusal, overloads: Mapping[str, Sequence[Overload]]) -> str:
    host = str(refusal.host)
    if refusal.reason is Reason.ALONE:
        problem = Problem.OVERLOAD if host in overloads else Problem.DRAIN
        return f"{_problem(host, problem, overloads)} and has no other host to move to"
    if refusal.reason is Reason.WAITING:
        return f"{host} waits for {refusal.detail['until']}"
    if refusal.reason is Reason.NOT_WORTH:
        detail = refusal.detail
        comes_to = (
            f"save {detail['saved_minutes']:.1f}" if "saved_minutes" in detail else f"add {detail['added_minutes']:.1f}"
        )
        return (
            f"{_problem(host, Problem.OVERLOAD, overloads)}, and what could leave it would {comes_to} minutes of overload "
            f"and cost {detail['cost_minutes']:.1f} minutes of a host"
        )
    return f"{host} waits {refusal.detail['seconds_left']:.0f} s more after an attempt that did not solve its problem"
