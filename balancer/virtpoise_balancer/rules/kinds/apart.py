"""``apart``, anti-affinity: no two of the domains are on one host."""

from __future__ import annotations

from virtpoise_balancer.model import Reason
from virtpoise_balancer.rules.base import GroupKind
from virtpoise_balancer.rules.kinds.never_on import NEVER_ON


class Apart(GroupKind):
    name = "apart"
    reason = Reason.RULE_APART
    wording = "an anti-affinity rule keeps it apart from a domain on the host"
    for_one = NEVER_ON

    def allows(self, there: int, arriving: int = 1) -> bool:
        return not there

    def crowded(self, rule: str, size: int, places: int) -> str:
        return f"{rule} keeps {size} domains apart, for which there are {places} hosts"


APART = Apart()
