"""``apart``, anti-affinity: no two of the domains are on one host, or no more than a rule's ``most``."""

from __future__ import annotations

from functools import cache

from virtpoise_balancer.model import Reason
from virtpoise_balancer.rules.base import GroupKind
from virtpoise_balancer.rules.kinds.never_on import NEVER_ON


class Apart(GroupKind):
    name = "apart"
    reason = Reason.RULE_APART
    wording = "an anti-affinity rule keeps it apart from a domain on the host"
    takes_most = True
    for_one = NEVER_ON

    def __init__(self, most_there: int = 1) -> None:
        self._most_there = most_there

    def at_most(self, most: int) -> GroupKind:
        return _at_most(most)

    def allows(self, there: int, arriving: int = 1) -> bool:
        return not there or there + arriving <= self._most_there

    def crowded(self, rule: str, size: int, places: int) -> str:
        if self._most_there > 1:
            return f"{rule} has {size} domains, at most {self._most_there} together, for which there are {places} hosts"
        return f"{rule} keeps {size} domains apart, for which there are {places} hosts"


APART = Apart()


@cache
def _at_most(most: int) -> Apart:
    return Apart(most)
