"""Which cycles would find nothing to do, so that a simulation of a month need not run them.

A cycle is run wherever it may do or remember anything: a sample at a threshold, a host in back-off, a migration or an
order that samples still have to show, a policy that acts without an overload. Tests hold runs with and without these
cycles against each other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from virtpoise_balancer.analyse.demand import Floats
from virtpoise_balancer.analyse.measure import spans
from virtpoise_balancer.config import Config
from virtpoise_balancer.control.cycle import Report
from virtpoise_balancer.model import Resource, SampleTimes

# After a longer gap a cycle does not compare what it sees with what was seen before.
_LONGEST_SECONDS = 1800.0
# How many steps a change is followed: a domain that is seen nowhere counts as stopped after three.
_STEPS = 5


@dataclass(slots=True)
class Quiet:
    """Which cycles nothing can come of, so that they need not run. ``skips``: whether any is left out at all."""

    config: Config
    times: SampleTimes
    skips: bool = True
    _restless_until: float = -np.inf
    _ran_at: float = -np.inf
    _known: tuple[bool, ...] = ()

    def disturb(self, now: float) -> None:
        """Something has changed: every cycle counts until samples show it, and predictions of it were measured.

        Later ones read from the store what it means to samples that are older.
        """
        measurement, step = self.config.measurement, self.times.step_seconds
        shown = _STEPS * step + self.times.reach_back_seconds
        measured = sum(spans(measurement.settle_seconds, measurement.window_seconds, self.times)) + 2 * step
        self._restless_until = max(self._restless_until, now + max(shown, measured))

    def ran(self, now: float, report: Report) -> None:
        """A cycle was run."""
        self._ran_at = now
        waits = any(one.penalty_until is not None for one in report.backoffs.values())
        if waits or any(order.draining for order in report.drains.values()):
            self._restless_until = max(self._restless_until, now + self.times.step_seconds)

    def may_skip(self, now: float, newest: Floats) -> bool:
        """Whether a cycle now would find nothing to do.

        ``newest``: the samples (resources x hosts), NaN where there is none.
        """
        policy = self.config.policy
        known = tuple(~np.isnan(newest[Resource.CPU.row]))
        if known != self._known:
            self._known = known
            self.disturb(now)
        if (
            not self.skips
            or policy.hosts
            or policy.imbalance is not None
            or policy.foresight is not None
            or policy.repair_rules
            or policy.repair_soft_rules
        ):
            return False
        if now <= self._restless_until or now - self._ran_at > _LONGEST_SECONDS:
            return False
        thresholds = np.array([policy.trigger(resource).threshold for resource in Resource])
        with np.errstate(invalid="ignore"):
            return not bool((newest >= thresholds[:, np.newaxis]).any())
