"""What a policy names and the group has not: a rule that fits no domain or no host does nothing, and says so."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from fnmatch import translate
from operator import attrgetter

from virtpoise_balancer.analyse.reserve import fits
from virtpoise_balancer.model import DomainState, Policy, Snapshot
from virtpoise_balancer.rules import GroupKind, kinds
from virtpoise_balancer.rules.host_patterns import host_pattern

# How many notes a plan carries.
_MOST_NOTES = 50


def notes(snapshot: Snapshot, policy: Policy) -> tuple[str, ...]:
    """A sentence for each part of a rule and each reserve that fits nothing, and each group in a domain's metadata that
    is no rule.
    """
    found: list[str] = []
    for note in (*_of_rules(snapshot, policy), *_of_reserve(snapshot, policy), *_of_metadata(snapshot, policy)):
        found.append(note)
        if len(found) == _MOST_NOTES:
            break
    return tuple(found)


def fits_none(pattern: str, names: Iterable[str]) -> bool:
    return not any(map(re.compile(translate(pattern)).match, names))


def like(name: str, names: Iterable[str]) -> str:
    """A hint at the first of the names that is the same but for its domain: one is short, the other fully qualified;
    else nothing.
    """
    short = name.partition(".")[0]
    same = sorted(other for other in names if other != name and other.partition(".")[0] == short)
    return f" (there is {same[0]!r})" if same else ""


def _of_rules(snapshot: Snapshot, policy: Policy) -> Iterator[str]:
    if not policy.rules:
        return
    hosts = [host.name for host in snapshot.hosts]
    labels = {name for host in snapshot.hosts for name in host.labels}
    domains = [domain.name for domain in snapshot.domains]
    uuids = {domain.uuid for domain in snapshot.domains}
    for rule in policy.rules:
        for pattern in rule.hosts:
            if "=" in pattern and not any(map(host_pattern(pattern), hosts, (h.labels for h in snapshot.hosts))):
                yield f"the rule {rule.name!r} names {pattern!r}, and no host has this label"
            if "=" not in pattern and fits_none(pattern, hosts):
                yield f"the rule {rule.name!r} names {pattern!r}, and no host is called so{like(pattern, hosts)}"
        if rule.over is not None and (without := [h.name for h in snapshot.hosts if not h.labels.get(rule.over)]):
            if rule.over not in labels:
                yield f"the rule {rule.name!r} counts by the label {rule.over!r}, and no host has it"
            else:
                yield f"the rule {rule.name!r} counts by the label {rule.over!r}, and {without[0]!r} has none"
        for pattern in rule.domains:
            if pattern not in uuids and fits_none(pattern, domains):
                yield f"the rule {rule.name!r} names {pattern!r}, and no domain is called so"


def _of_reserve(snapshot: Snapshot, policy: Policy) -> Iterator[str]:
    for entry in policy.reserve:
        if not any(fits(entry, host) for host in snapshot.hosts):
            yield f"the reserve for {', '.join(entry.hosts)} fits no host"


def _of_metadata(snapshot: Snapshot, policy: Policy) -> Iterator[str]:
    if policy.metadata == "ignore":
        return
    groups = {(rule.kind, rule.name) for rule in policy.rules}
    for domain in filter(attrgetter("placement"), snapshot.domains):
        if (asked := domain.placement) is None or domain.state is DomainState.SHUTOFF:
            continue
        for kind in kinds(GroupKind):
            for name in kind.asked(asked):
                if (kind.name, name) not in groups:
                    yield f"the metadata of {domain.name!r} names the group {name!r}: the policy has no {kind.name} rule of this name"
