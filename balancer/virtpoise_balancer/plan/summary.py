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
) -> str:
    if not attempts and not held:
        return (
            f"no host is at or above {policy.cpu.threshold:.0%} {policy.cpu.consecutive} times in a row: nothing to do"
        )
    found = {overload.host: overload for overload in overloaded}
    leaving: dict[str, list[Move]] = defaultdict(list)
    for move in moves:
        leaving[move.source].append(move)
    parts = [_attempt(attempt, found, leaving[attempt.host]) for attempt in attempts]
    parts += [_held(refusal, found) for refusal in held]
    return "; ".join(parts)


def _problem(host: str, overloads: Mapping[str, Overload]) -> str:
    overload = overloads.get(host)
    if overload is None:
        return f"{host} is draining"
    return f"{host} is overloaded ({overload.resource} {overload.ratio:.0%}, {overload.consecutive} times in a row)"


def _attempt(attempt: Attempt, overloads: Mapping[str, Overload], moves: Sequence[Move]) -> str:
    problem = f"{attempt.host} is draining" if attempt.problem is Problem.DRAIN else _problem(attempt.host, overloads)
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
        return f"{_problem(host, overloads)} and has no other host to move to"
    return f"{host} waits {refusal.detail['seconds_left']:.0f} s more after an attempt that did not solve its problem"
