"""What is tried for the sources of a plan, one thing after the other, until each is solved or nothing is left."""

from __future__ import annotations

from collections.abc import Sequence, Set

from virtpoise_balancer.analyse.demand import Mask
from virtpoise_balancer.plan.default.assign import relieve, relieve_partly
from virtpoise_balancer.plan.default.group import Group
from virtpoise_balancer.plan.default.source import Source
from virtpoise_balancer.plan.default.trial import Trial

# With more sources than this none that is solved is solved less far in favour of others.
_MOST_SHARING = 12


def solve(group: Group, sources: list[Source], closed: Mask) -> tuple[Trial, list[Source]]:
    """A trial with the steps that solve the sources, and the sources as they were solved.

    ``closed``: hosts that take nothing (hosts). A source that is not solved otherwise may move domains that gain little
    each, and if need be those that should rest. Where that does not solve it either, it is at least to be below its
    thresholds. What cannot be solved is relieved as far as it goes.
    """
    trial, unsolved = relieve(Trial(group, sources, closed), sources)
    for widened in (Source.with_small, Source.unrested):
        wider = {s.number: more for s in sources if s.number in unsolved and (more := widened(s)) is not None}
        if wider:
            trial, still = relieve(trial, list(wider.values()))
            unsolved = (unsolved - wider.keys()) | still
            sources = [source if source.number in unsolved else wider.get(source.number, source) for source in sources]
    if unsolved:
        trial = _below_thresholds(trial, sources, unsolved, closed)
    for source in sources:
        if source.number in unsolved:
            relieve_partly(trial, source)
    return trial, sources


def _below_thresholds(trial: Trial, sources: Sequence[Source], unsolved: Set[int], closed: Mask) -> Trial:
    """The trial with further steps that bring unsolved sources below their thresholds.

    Few sources are assigned anew: those that were not solved need less then, and where some are still above, all do, if
    that brings more of them below.
    """
    lower = [source.below_thresholds() or source for source in sources]
    if len(sources) > _MOST_SHARING:
        return relieve(trial, [source for source in lower if source.number in unsolved])[0]
    mixed = [less if less.number in unsolved else source for source, less in zip(sources, lower, strict=True)]
    above = unsolved
    for shared in (mixed, lower):
        # What a source may take in return is bounded by what it should come down to: so it counts as solved or not.
        other, still = relieve(Trial(trial.group, sources, closed), shared)
        if len(still) < len(above):
            trial, above = other, still
        if not above:
            break
    return trial
