"""``never_on``, host anti-affinity: each domain is on none of the hosts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtpoise_balancer.model import Reason
from virtpoise_balancer.rules.base import HostKind

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class NeverOn(HostKind):
    name = "never_on"
    reason = Reason.RULE_NEVER_ON
    wording = "a host anti-affinity rule excludes the host"

    def allows(self, named: NDArray[np.bool_]) -> NDArray[np.bool_]:
        return ~named


NEVER_ON = NeverOn()
