"""What is noted of the common policy: a rule of all groups may well fit nothing in some of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from virtpoise_balancer.config import Config
from virtpoise_balancer.model import Plan
from virtpoise_balancer.plan.unmatched import about_common, fit_no_group, own_notes


@dataclass(slots=True)
class CommonNotes:
    """The notes of each group's newest plan."""

    _notes: dict[str, Sequence[str]] = field(default_factory=dict)
    _common: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def of(self, config: Config, plan: Plan) -> Plan:
        """The plan of a group, without those notes on the common policy that do not hold for every group.

        While the plan of another group is not known, it has none of them.
        """
        self._notes[config.group] = plan.notes
        self._common[config.group] = about_common(config.policy, config.common_policy)
        if not self._common[config.group]:
            return plan
        if self._notes.keys() >= set(config.all_groups):
            left = fit_no_group(config.group, self._notes, self._common)
        else:
            left = own_notes(plan.notes, config.policy, config.common_policy)
        return replace(plan, notes=left)
