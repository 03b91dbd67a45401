"""The whole configuration, and its sections that are a few values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, PrivateAttr, model_validator

from virtpoise_balancer.config.groups import GroupName, GroupSettings, completed, consistent_policy, group_problems
from virtpoise_balancer.config.libvirt import Libvirt
from virtpoise_balancer.config.migration import Migration
from virtpoise_balancer.config.prometheus import Prometheus
from virtpoise_balancer.config.section import Seconds, Section, inconsistent
from virtpoise_balancer.config.state import StateStore
from virtpoise_balancer.config.web import Web
from virtpoise_balancer.errors import BadInput
from virtpoise_balancer.model import Mode, Policy
from virtpoise_balancer.monitor.queries import has_matchers


class Measurement(Section):
    """When a prediction is compared with the measured load: for ``window_seconds``, from ``settle_seconds`` after the
    migration.
    """

    settle_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 20.0
    window_seconds: Seconds = 60.0


class Log(Section):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["logfmt", "json"] = "logfmt"


class Config(Section):
    """The whole configuration, or a group's own, which has no ``groups``: it is that of a balancer of this group alone.

    ``group``: whose own it is, or empty. ``all_groups``: the names of all groups beside it.
    """

    prometheus: Prometheus = Prometheus()
    libvirt: Libvirt = Libvirt()
    state: StateStore = StateStore()
    mode: Mode = "recommend"
    interval_seconds: Seconds = 10.0
    policy: Annotated[Policy, AfterValidator(consistent_policy)] = Policy()
    migration: Migration = Migration()
    measurement: Measurement = Measurement()
    web: Web = Web()
    log: Log = Log()
    groups: dict[GroupName, GroupSettings] = Field(default_factory=dict)

    _group: str = PrivateAttr("")
    _all_groups: tuple[str, ...] = PrivateAttr(("",))
    _common_policy: Policy | None = PrivateAttr(None)

    _completed = model_validator(mode="before")(completed)

    @property
    def group(self) -> str:
        return self._group

    @property
    def all_groups(self) -> tuple[str, ...]:
        return self._all_groups

    @property
    def common_policy(self) -> Policy | None:
        """The policy from which the groups take what they do not set themselves; None where there are no groups."""
        return self._common_policy

    @property
    def each_group(self) -> Mapping[str, Config]:
        """The configuration of each group by its name; where there are no groups, this one by the empty name."""
        return {name: self._of(name, group) for name, group in self.groups.items()} or {"": self}

    def _of(self, name: str, group: GroupSettings) -> Config:
        matchers = ",".join(filter(None, (self.prometheus.matchers, group.matchers)))
        own: dict[str, Any] = {
            "prometheus": self.prometheus.model_copy(update={"matchers": matchers}),
            "mode": group.mode,
            "policy": group.policy,
            "libvirt": group.libvirt,
            "migration": group.migration,
            "groups": {},
        }
        made = self.model_copy(update=own)
        made._group, made._all_groups, made._common_policy = name, tuple(self.groups), self.policy
        return made

    def of_group(self, name: str) -> Config:
        """The configuration of one group. BadInput that names the groups when it is none of them."""
        found = self.each_group.get(name)
        if found is None:
            known = f"one of {', '.join(self.groups)}" if self.groups else "no group, since the configuration has none"
            raise BadInput(f"group: expected {known}, got {name!r}")
        return found

    @property
    def scrape_interval_seconds(self) -> float:
        return self.prometheus.scrape_interval_seconds or self.interval_seconds

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        found = []
        if self.scrape_interval_seconds > self.interval_seconds:
            found.append(
                f"interval_seconds: expected at least the scrape interval ({self.scrape_interval_seconds:g}), "
                f"got {self.interval_seconds:g}"
            )
        if not self.groups and self.mode == "automatic" and (why := self.libvirt.only_recommends):
            found.append(why)
        found += group_problems(self.groups)
        found += [
            f"prometheus.queries.{name}: expected $matchers in each selector, without which it is of all groups"
            for name, query in self.prometheus.queries.items()
            if self.groups and not has_matchers(query)
        ]
        if found:
            raise inconsistent(found)
        return self
