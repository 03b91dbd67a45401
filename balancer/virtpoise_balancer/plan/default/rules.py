"""The placement rules of the policy and of the domains' own metadata as one set, and the contradictions in it.

A move never breaks a hard rule. A rule that holds causes no move, and one that is broken already causes none either
unless the policy says so; but a domain that moves anyway goes where the rule is kept.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import translate

import numpy as np
from numpy.typing import NDArray

from virtpoise_balancer.model import Domain, DomainState, Rule, RuleKind

_WILDCARDS = re.compile(r"[*?\[]")
# Of domains to be kept together or apart: the rule's name, its kind, and whether it is hard.
_Key = tuple[str, RuleKind, bool]


@dataclass(frozen=True, slots=True)
class Bond:
    """Domains (by uuid) to be kept together or apart."""

    name: str
    kind: RuleKind
    hard: bool
    members: frozenset[str]


@dataclass(frozen=True, slots=True)
class Tie:
    """One domain's rule about hosts (shell patterns)."""

    name: str
    kind: RuleKind
    hard: bool
    hosts: tuple[str, ...]


@dataclass(slots=True)
class Rules:
    """The rules as they apply to the domains of a group.

    ``bonds`` (affinity, anti-affinity) and ``ties`` (host affinity) by domain. ``conflicts``: how the hard rules of a
    domain contradict each other, by uuid. ``crowded``: likewise where a rule keeps more domains apart than there are
    hosts; each may go where it allows.
    """

    host_names: Sequence[str]
    bonds: tuple[Bond, ...] = ()
    bonds_of: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    ties_of: Mapping[str, tuple[Tie, ...]] = field(default_factory=dict)
    ignored: Mapping[str, str] = field(default_factory=dict)
    conflicts: Mapping[str, str] = field(default_factory=dict)
    crowded: Mapping[str, str] = field(default_factory=dict)
    _masks: dict[tuple[str, ...], NDArray[np.bool_]] = field(default_factory=dict)

    def matching(self, patterns: tuple[str, ...]) -> NDArray[np.bool_]:
        """For each host whether its name fits one of the patterns."""
        mask = self._masks.get(patterns)
        if mask is None:
            fits = [re.compile(translate(pattern)).match for pattern in patterns]
            mask = np.array([any(fit(name) for fit in fits) for name in self.host_names], dtype=np.bool_)
            self._masks[patterns] = mask
        return mask

    def allowed(self, uuid: str, *, hard: bool = True) -> NDArray[np.bool_] | None:
        """For each host whether the domain's hard (or soft) rules about hosts let it be there; None: everywhere."""
        mask: NDArray[np.bool_] | None = None
        for tie in self.ties_of.get(uuid, ()):
            if tie.hard is not hard or tie.kind is RuleKind.PREFER:
                continue
            fits = self.matching(tie.hosts)
            ok = fits if tie.kind is RuleKind.ONLY_ON else ~fits
            mask = ok if mask is None else mask & ok
        return mask

    def preferred(self, uuid: str) -> NDArray[np.bool_] | None:
        mask: NDArray[np.bool_] | None = None
        for tie in self.ties_of.get(uuid, ()):
            if tie.kind is RuleKind.PREFER:
                fits = self.matching(tie.hosts)
                mask = fits if mask is None else mask | fits
        return mask

    def broken_tie(self, uuid: str, host: int) -> Tie | None:
        """The first hard rule about hosts that the domain breaks where it is."""
        for tie in self.ties_of.get(uuid, ()):
            if tie.hard and tie.kind is not RuleKind.PREFER:
                fits = bool(self.matching(tie.hosts)[host])
                if fits is (tie.kind is RuleKind.NEVER_ON):
                    return tie
        return None

    def bundle_of(self, uuid: str) -> frozenset[str]:
        """The domain and all that hard rules keep together with it."""
        found: set[str] = set()
        ahead = [uuid]
        while ahead:
            one = ahead.pop()
            if one in found:
                continue
            found.add(one)
            for number in self.bonds_of.get(one, ()):
                bond = self.bonds[number]
                if bond.hard and bond.kind is RuleKind.TOGETHER:
                    ahead.extend(bond.members - found)
        return frozenset(found)


def gather(
    rules: Sequence[Rule], domains: Sequence[Domain], host_names: Sequence[str], *, metadata: bool = True
) -> Rules:
    """The rules as they apply to these domains; a shut-off domain is under none. ``metadata``: whether the domains' own counts."""
    members: dict[_Key, set[str]] = defaultdict(set)
    ties: dict[str, list[Tie]] = defaultdict(list)
    ignored: dict[str, str] = {}

    def apply(rule: Rule, uuid: str) -> None:
        if rule.kind in (RuleKind.TOGETHER, RuleKind.APART):
            members[rule.name, rule.kind, rule.hard].add(uuid)
        elif rule.kind is RuleKind.IGNORE:
            ignored[uuid] = rule.name
        else:
            ties[uuid].append(Tie(rule.name, rule.kind, rule.hard, rule.hosts))

    by_name: dict[str, list[Rule]] = defaultdict(list)
    by_pattern: list[tuple[re.Pattern[str], Rule]] = []
    for rule in rules:
        for name in rule.domains:
            if _WILDCARDS.search(name):
                by_pattern.append((re.compile(translate(name)), rule))
            else:
                by_name[name].append(rule)
    for domain in domains:
        if domain.state is DomainState.SHUTOFF:
            continue
        for rule in by_name.get(domain.name, ()):
            apply(rule, domain.uuid)
        for rule in by_name.get(domain.uuid, ()):
            apply(rule, domain.uuid)
        for pattern, rule in by_pattern:
            if pattern.match(domain.name):
                apply(rule, domain.uuid)
    if metadata:
        groups = {(rule.name, rule.kind): rule for rule in rules}
        host_of = {domain.uuid: domain.host for domain in domains}
        for domain in domains:
            if domain.placement is not None and domain.state is not DomainState.SHUTOFF:
                ties[domain.uuid] += _asked(domain, groups, members, host_of)
                if domain.placement.ignore:
                    ignored[domain.uuid] = "metadata"
    bonds = tuple(
        Bond(name, kind, hard, frozenset(uuids))
        for (name, kind, hard), uuids in sorted(members.items())
        if len(uuids) > 1
    )
    bonds_of: dict[str, list[int]] = defaultdict(list)
    for number, bond in enumerate(bonds):
        for uuid in bond.members:
            bonds_of[uuid].append(number)
    found = Rules(
        host_names,
        bonds,
        {uuid: tuple(numbers) for uuid, numbers in bonds_of.items()},
        {uuid: tuple(dict.fromkeys(several)) for uuid, several in ties.items() if several},
        ignored,
    )
    found.conflicts = _conflicts(found)
    found.crowded = _crowded(found)
    return found


def _asked(
    domain: Domain,
    groups: Mapping[tuple[str, RuleKind], Rule],
    members: Mapping[_Key, set[str]],
    host_of: Mapping[str, str],
) -> Iterator[Tie]:
    """What a domain's own metadata asks for, as rules about hosts: these bind this domain and no other.

    A group named there is a rule of the policy. ``members``: the domains that the policy puts into it, and no domain by its metadata;
    together with them is where they are, apart from them is where they are not.
    """
    asked = domain.placement
    if asked is None or _kept_together(domain.uuid, members):  # what binds this domain would bind those with it
        return
    for kind, hosts in (
        (RuleKind.ONLY_ON, asked.only_on),
        (RuleKind.NEVER_ON, asked.never_on),
        (RuleKind.PREFER, asked.prefer),
    ):
        if hosts:
            yield Tie("metadata", kind, True, hosts)
    for kind, names, about_hosts in (
        (RuleKind.TOGETHER, asked.together, RuleKind.ONLY_ON),
        (RuleKind.APART, asked.apart, RuleKind.NEVER_ON),
    ):
        for name in names:
            if (rule := groups.get((name, kind))) is None:
                continue
            others = members.get((name, kind, rule.hard), set()) - {domain.uuid}
            if others:
                at = tuple(sorted({_literal(host_of[uuid]) for uuid in others}))
                yield Tie(f"metadata:{name}", about_hosts, rule.hard, at)


def _kept_together(uuid: str, members: Mapping[_Key, set[str]]) -> bool:
    return any(
        hard and kind is RuleKind.TOGETHER and uuid in uuids and len(uuids) > 1
        for (_, kind, hard), uuids in members.items()
    )


def _literal(name: str) -> str:
    """A shell pattern that fits this name alone."""
    return _WILDCARDS.sub(lambda found: f"[{found[0]}]", name)


def _conflicts(rules: Rules) -> dict[str, str]:
    """By uuid: the domain's hard rules cannot all be kept, wherever it is."""
    conflicts: dict[str, str] = {}
    for uuid in sorted(rules.ties_of.keys() | rules.bonds_of.keys()):
        bundle = sorted(rules.bundle_of(uuid))
        if bundle[0] != uuid and bundle[0] in conflicts:
            conflicts[uuid] = conflicts[bundle[0]]
            continue
        apart = _kept_apart(rules, set(bundle))
        if apart:
            conflicts[uuid] = f"{apart} keeps apart what other rules keep together"
            continue
        places = np.ones(len(rules.host_names), dtype=np.bool_)
        names: list[str] = []
        for one in bundle:
            allowed = rules.allowed(one)
            if allowed is not None:
                places &= allowed
                names += [t.name for t in rules.ties_of[one] if t.hard and t.kind is not RuleKind.PREFER]
        if not places.any():
            conflicts[uuid] = f"no host is left by {', '.join(dict.fromkeys(names))}"
    return conflicts


def _crowded(rules: Rules) -> dict[str, str]:
    """By uuid: a rule keeps apart more domains than there are hosts on which any of them may be."""
    crowded: dict[str, str] = {}
    for bond in rules.bonds:
        if not bond.hard or bond.kind is not RuleKind.APART:
            continue
        allowed = [rules.allowed(uuid) for uuid in sorted(bond.members)]
        places = len(rules.host_names)
        masks = [mask for mask in allowed if mask is not None]
        if len(masks) == len(allowed):
            places = int(np.logical_or.reduce(masks).sum())
        if len(bond.members) > places:
            told = f"{bond.name} keeps {len(bond.members)} domains apart, for which there are {places} hosts"
            crowded |= dict.fromkeys(sorted(bond.members - crowded.keys()), told)
    return crowded


def _kept_apart(rules: Rules, bundle: set[str]) -> str | None:
    for bond in rules.bonds:
        if bond.hard and bond.kind is RuleKind.APART and len(bond.members & bundle) > 1:
            return bond.name
    return None
