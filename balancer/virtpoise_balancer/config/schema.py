"""The whole configuration, and its sections that are a few values."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from virtpoise_balancer.blackout import window_problems
from virtpoise_balancer.config.libvirt import Libvirt
from virtpoise_balancer.config.migration import Migration
from virtpoise_balancer.config.prometheus import Prometheus
from virtpoise_balancer.config.section import Seconds, Section, inconsistent
from virtpoise_balancer.config.state import StateStore
from virtpoise_balancer.config.web import Web
from virtpoise_balancer.model import Mode, Policy, policy_problems
from virtpoise_balancer.rules.check import rule_problems


def _consistent_policy(policy: Policy) -> Policy:
    if found := [*policy_problems(policy), *rule_problems(policy), *window_problems(policy)]:
        raise inconsistent(found)
    return policy


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
    prometheus: Prometheus = Prometheus()
    libvirt: Libvirt = Libvirt()
    state: StateStore = StateStore()
    mode: Mode = "recommend"
    interval_seconds: Seconds = 10.0
    policy: Annotated[Policy, AfterValidator(_consistent_policy)] = Policy()
    migration: Migration = Migration()
    measurement: Measurement = Measurement()
    web: Web = Web()
    log: Log = Log()

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
        if self.mode == "automatic" and (why := self.libvirt.only_recommends):
            found.append(why)
        if found:
            raise inconsistent(found)
        return self
