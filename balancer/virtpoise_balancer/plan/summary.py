"""A plan in one sentence: what is done and why, or why nothing is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from virtpoise_balancer.model import Attempt, Move, Overload, Policy, Problem, Reason, Refusal


def summarise(
    policy: Policy,
    overloaded: Sequence[Overload],
    attempts: Sequence[Attempt],
    moves: Sequence[Move],
    held: Sequence[Refusal],
    unrepaired: Sequence[str] = (),
) -> str:
    """The sentence for a plan of these parts. ``unrepaired``: the broken rules that should be repaired and are not."""
    if not attempts and not held and not unrepaired:
        return _idle(policy)
    found = {overload.host: overload for overload in overloaded}
    leaving: dict[str, list[Move]] = defaultdict(list)
    for move in moves:
        leaving[move.source].append(move)
    parts = [_attempt(attempt, found, leaving[attempt.host]) for attempt in attempts]
    parts += [_held(refusal, found) for refusal in held]
    parts += [f"the rule {rule} stays broken" for rule in dict.fromkeys(unrepaired)]
    return "; ".join(parts)


def _idle(policy: Policy) -> str:
    """Why nothing is done: what was watched, with the threshold of each resource."""
    watched = {"CPU": policy.cpu}
    if policy.strategy != "thesis":
        watched |= {"memory": policy.memory, "uplink": policy.network}
    counts = {trigger.consecutive for trigger in watched.values()}
    if len(counts) > 1:
        levels = [f"{name}: {one.consecutive} at {one.threshold:.0%}" for name, one in watched.items()]
        return (
            f"no host has had enough consecutive samples at or above a threshold ({', '.join(levels)}); nothing to do"
        )
    count = counts.pop()
    samples = "a sample" if count == 1 else f"{count} consecutive samples"
    levels = [f"{name} {one.threshold:.0%}" for name, one in watched.items()]
    return f"no host has had {samples} at or above a threshold ({', '.join(levels)}); nothing to do"


def _problem(host: str, problem: Problem, overloads: Mapping[str, Overload]) -> str:
    if problem is Problem.RULE:
        return f"a rule is broken on {host}"
    if problem is Problem.IMBALANCE:
        return f"the group is uneven and {host} its busiest host"
    if problem is Problem.DRAIN:
        return f"{host} is draining"
    overload = overloads[host]
    return (
        f"{host} is overloaded ({overload.resource} {overload.ratio:.0%}, {overload.consecutive} consecutive samples)"
    )


def _attempt(attempt: Attempt, overloads: Mapping[str, Overload], moves: Sequence[Move]) -> str:
    problem = _problem(attempt.host, attempt.problem, overloads)
    if not moves:
        return f"{problem} and no domain can be moved to another host"
    listed = ", ".join(f"{move.domain} to {move.destination}" for move in moves[:5])
    more = f" and {len(moves) - 5} more" if len(moves) > 5 else ""
    last = moves[-1].predicted.source.cpu_ratio
    unsolved = "" if attempt.solved else ", which does not solve it"
    return f"{problem}: move {listed}{more} ({attempt.host} is predicted at {last:.0%}{unsolved})"


def _held(refusal: Refusal, overloads: Mapping[str, Overload]) -> str:
    host = str(refusal.host)
    if refusal.reason is Reason.ALONE:
        problem = Problem.OVERLOAD if host in overloads else Problem.DRAIN
        return f"{_problem(host, problem, overloads)} and has no other host to move to"
    if refusal.reason is Reason.WAITING:
        return f"{host} waits for {refusal.detail['until']}"
    if refusal.reason is Reason.NOT_WORTH:
        saved, cost = refusal.detail["saved_minutes"], refusal.detail["cost_minutes"]
        return (
            f"{_problem(host, Problem.OVERLOAD, overloads)}, and what could leave it would save {saved:.1f} minutes of "
            f"overload within an hour and cost {cost:.1f}"
        )
    return f"{host} waits {refusal.detail['seconds_left']:.0f} s more after an attempt that did not solve its problem"
