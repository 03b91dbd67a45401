"""``only_on``, host affinity: each domain is on one of the hosts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtpoise_balancer.model import Reason
from virtpoise_balancer.rules.base import HostKind

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class OnlyOn(HostKind):
    name = "only_on"
    reason = Reason.RULE_ONLY_ON
    wording = "a host affinity rule allows it only on other hosts"

    def allows(self, named: NDArray[np.bool_]) -> NDArray[np.bool_]:
        return named


ONLY_ON = OnlyOn()
