"""The section groups: clusters that one balancer serves, each with what differs from the common settings."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator

from virtpoise_balancer.blackout import window_problems
from virtpoise_balancer.config.libvirt import Libvirt
from virtpoise_balancer.config.migration import Migration
from virtpoise_balancer.config.section import Section, inconsistent
from virtpoise_balancer.hosts import of_pattern
from virtpoise_balancer.model import Mode, Policy, Reserve, Rule, policy_problems
from virtpoise_balancer.monitor.matchers import read_matchers
from virtpoise_balancer.rules.check import rule_problems
from virtpoise_balancer.visible import shown

# What a group may have of its own. The rest is common.
OWN = ("mode", "policy", "libvirt", "migration")


_Named = TypeVar("_Named", Rule, Reserve)


def _group_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}", name):
        raise ValueError("the name of a group: at most 63 letters, digits, hyphens and underscores")
    return name


def _some_matchers(text: str) -> str:
    if not (matchers := read_matchers(text)):
        raise ValueError('PromQL label matchers that only this group\'s targets have, like cluster="blue"')
    return matchers


def consistent_policy(policy: Policy) -> Policy:
    """The policy, if it does not contradict itself, with IPv6 addresses of hosts in their shortest form."""
    if found := [*policy_problems(policy), *rule_problems(policy), *window_problems(policy)]:
        raise inconsistent(found)
    return replace(policy, rules=_shortest(policy.rules), reserve=_shortest(policy.reserve))


def _shortest(entries: tuple[_Named, ...]) -> tuple[_Named, ...]:
    return tuple(replace(one, hosts=tuple(map(of_pattern, one.hosts))) for one in entries)


GroupName = Annotated[str, AfterValidator(_group_name)]


class GroupSettings(Section):
    """One group of hosts. ``matchers``: of its targets, beside ``prometheus.matchers``. The others are complete."""

    matchers: Annotated[str, AfterValidator(_some_matchers)]
    mode: Mode
    policy: Annotated[Policy, AfterValidator(consistent_policy)]
    libvirt: Libvirt
    migration: Migration


def completed(values: Any) -> Any:
    """The values of a whole configuration, as YAML has them, with each group's completed by the common ones.

    What is no mapping stays as it is, and is refused by the schema.
    """
    if not isinstance(values, Mapping) or not isinstance(groups := values.get("groups"), Mapping):
        return values
    common = {"mode": "recommend"} | {key: values.get(key, {}) for key in OWN if key != "mode" or key in values}
    return {**values, "groups": {name: _merged(common, own) for name, own in groups.items()}}


def _merged(common: Any, own: Any) -> Any:
    """The configuration of a group: ``own`` over ``common``, key by key; a list or a plain value replaces the other."""
    if not isinstance(common, Mapping) or not isinstance(own, Mapping):
        return own
    return {**common, **{key: _merged(common.get(key), value) for key, value in own.items()}}


def group_problems(groups: Mapping[str, GroupSettings]) -> Iterator[str]:
    """A line for each group with the matchers of another, or with a mode that it may not have."""
    first: dict[str, str] = {}
    for name, group in groups.items():
        if (other := first.setdefault(group.matchers, name)) != name:
            yield f"groups.{name}.matchers: expected others than those of {other}, got {shown(group.matchers)}"
        if group.mode == "automatic" and (why := group.libvirt.only_recommends):
            yield f"groups.{name}.{why}"
