"""``last``: the domains are moved last, only if nothing else relieves their host."""

from __future__ import annotations

from virtpoise_balancer.rules.base import HoldKind


class Last(HoldKind):
    name = "last"
    wording = "a rule has it moved last, if nothing else helps"
    binding = False


LAST = Last()
