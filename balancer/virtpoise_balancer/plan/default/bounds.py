"""How many moves a plan may make, besides those of drains: by the policy's bounds for a plan and for an hour."""

from __future__ import annotations

from collections.abc import Sequence

from virtpoise_balancer.analyse.demand import Mask
from virtpoise_balancer.model import HostState, Reason, Refusal
from virtpoise_balancer.plan.default.group import Group
from virtpoise_balancer.plan.default.source import Source
from virtpoise_balancer.plan.default.trial import Step, Trial

_HOUR = 3600.0


def moves_left(group: Group) -> int | None:
    """How many moves a plan may make now; None: any number.

    Within the hour count the domains that were moved then, and those that are under way.
    """
    limits = group.policy.limits
    left = [] if limits.per_plan is None else [limits.per_plan]
    if limits.per_hour is not None:
        since = group.snapshot.time - _HOUR
        made = sum(
            one.migrating_to is not None or (one.last_moved is not None and one.last_moved > since)
            for one in group.snapshot.domains
        )
        left.append(max(limits.per_hour - made, 0))
    return min(left, default=None)


def bounded(trial: Trial, sources: Sequence[Source], closed: Mask, most: int | None) -> tuple[Trial, list[Step]]:
    """The trial with its first steps alone, as many as may be made; and the steps that are left out.

    ``sources``, ``closed``: as the trial began. Moves off draining hosts do not count: a person asked for them.
    """
    if most is None or _counted(trial, trial.steps) <= most:
        return trial, []
    made = Trial(trial.group, sources, closed)
    left_out: list[Step] = []
    for step in trial.steps:
        counted = _counted(trial, [step])
        if (counted and _counted(trial, made.steps) + counted > most) or not made.takes(
            step.candidate, step.destination
        ):
            left_out.append(step)
        else:
            made.apply(step)
    return made, left_out


def _counted(trial: Trial, steps: Sequence[Step]) -> int:
    draining = HostState.DRAINING
    hosts = trial.group.hosts
    return sum(step.candidate.moves for step in steps if hosts[step.candidate.source].state is not draining)


def left_out_refusals(group: Group, steps: Sequence[Step], most: int) -> list[Refusal]:
    """One for each domain of the steps that are left out."""
    return [
        Refusal.of(
            domain,
            Reason.MOVE_LIMIT,
            {"destination": group.hosts[step.destination].name, "moves_left": most},
        )
        for step in steps
        for domain in step.candidate.domains
    ]
