"""``ignore``: the domains are never moved."""

from __future__ import annotations

from virtpoise_balancer.model import Reason
from virtpoise_balancer.rules.base import HoldKind


class Ignore(HoldKind):
    name = "ignore"
    reason = Reason.RULE_IGNORE
    wording = "a rule excludes it from balancing"


IGNORE = Ignore()
