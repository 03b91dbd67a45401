"""``prefer``: each domain that moves anyway goes to one of the hosts, if that costs no further move."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtpoise_balancer.rules.base import SOFT, HostKind

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Prefer(HostKind):
    name = "prefer"
    wording = "a rule prefers other hosts"
    binding = False
    weight = SOFT / 2

    def allows(self, named: NDArray[np.bool_]) -> NDArray[np.bool_]:
        return named


PREFER = Prefer()
