"""Whether the rules of a policy mean anything, by their kinds."""

from __future__ import annotations

from collections.abc import Iterator

from virtpoise_balancer.model import Policy
from virtpoise_balancer.rules import KINDS, GroupKind


def rule_problems(policy: Policy) -> Iterator[str]:
    """A line for each rule that has no effect: the field, and what was expected."""
    names: set[str] = set()
    for i, rule in enumerate(policy.rules):
        if rule.name in names:
            yield f"rules.{i}.name: expected each name once, got {rule.name!r} again"
        names.add(rule.name)
        kind = KINDS.get(rule.kind)
        if kind is None:
            yield f"rules.{i}.kind: expected one of {', '.join(KINDS)}, got {rule.kind!r}"
            continue
        if kind.names_hosts is not bool(rule.hosts):
            expected = "at least one host" if kind.names_hosts else f"none with {kind.name}"
            yield f"rules.{i}.hosts: expected {expected}, got {', '.join(rule.hosts) or 'none'}"
        if rule.over is not None and (not isinstance(kind, GroupKind) or kind.attracts):
            yield f"rules.{i}.over: expected none with {kind.name}, got {rule.over!r}"
        if rule.most is not None and not (isinstance(kind, GroupKind) and kind.takes_most):
            yield f"rules.{i}.most: expected none with {kind.name}, got {rule.most}"
        if kind.least_domains > 1 == len(rule.domains) and rule.domains[0].isalnum():
            yield f"rules.{i}.domains: expected at least two, or a pattern, got {rule.domains[0]}"
