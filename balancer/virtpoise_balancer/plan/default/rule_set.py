"""The placement rules of the policy and of the domains' own metadata as one set, and the contradictions in it.

A move never breaks a hard rule. A rule that holds causes no move, and one that is broken already causes none either
unless the policy says so; but a domain that moves anyway goes where the rule is kept.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from virtpoise_balancer.model import Domain, DomainState, Host, Rule
from virtpoise_balancer.rules import GroupKind, HoldKind, HostKind, kind_of, of_shape
from virtpoise_balancer.rules.glob import UUID, WILDCARDS, glob
from virtpoise_balancer.rules.host_patterns import host_pattern

# What counts of a domain's own metadata. Whoever may edit a domain writes it, and each plan reads it.
_MOST_HOSTS = 16
_LONGEST_HOST = 128
_MOST_WILDCARDS = 8


class _Nowhere(HostKind):
    """What binds a domain whose metadata asks for more than counts."""

    name = "metadata"

    def allows(self, named: NDArray[np.bool_]) -> NDArray[np.bool_]:
        return np.zeros_like(named)


_NOWHERE = _Nowhere()
# Of a rule about several domains: its name, its kind, and whether it is hard.
_Key = tuple[str, GroupKind, bool]


@dataclass(frozen=True, slots=True)
class Bond:
    """A rule about several domains (by uuid). Hosts of one ``zone`` count as one for it.

    ``zones``: by host, the first of its zone. ``over``: the label that makes zones; None: each host is one by itself.
    ``crowded``: it has more domains than its zones may hold.
    """

    name: str
    kind: GroupKind
    hard: bool
    members: frozenset[str]
    zones: Sequence[int]
    over: str | None = None
    crowded: bool = False

    def takes(self, there: int, arriving: int, here: int) -> bool:
        """Whether a zone with ``there`` of the domains may take ``arriving`` more of the ``here`` in their own.

        Where there are more than the zones may hold, it may as well if that evens them out.
        """
        return self.kind.allows(there, arriving) or (self.crowded and there + arriving < here)

    def there(self, members: Mapping[int, int], host: int, source: int, arriving: int) -> int:
        """How many others are in the zone of another host than ``source``, from which ``arriving`` come.

        ``members``: how many of the rule's domains are in each zone.
        """
        zone = self.zones[host]
        return members.get(zone, 0) - (arriving if zone == self.zones[source] else 0)

    def hosts_in(self, zone: int) -> Sequence[int]:
        if self.over is None:
            return (zone,)
        return [host for host, one in enumerate(self.zones) if one == zone]


@dataclass(frozen=True, slots=True)
class Tie:
    """One domain's rule about hosts (shell patterns)."""

    name: str
    kind: HostKind
    hard: bool
    hosts: tuple[str, ...]

    @property
    def binding(self) -> bool:
        """Whether no move may break it."""
        return self.hard and self.kind.binding


@dataclass(slots=True)
class RuleSet:
    """The rules as they apply to the domains of a group.

    ``bonds`` and ``ties`` by domain. ``held``: the rule that keeps a domain where it is, by uuid. ``last``:
    the one that has it moved only where nothing else helps. ``conflicts``: how
    the hard rules of a domain contradict each other, by uuid. ``crowded``: likewise where a rule has more domains than
    fit on the hosts; each may go where it allows.
    """

    host_names: Sequence[str]
    labels: Sequence[Mapping[str, str]] = ()
    bonds: tuple[Bond, ...] = ()
    bonds_of: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    ties_of: Mapping[str, tuple[Tie, ...]] = field(default_factory=dict)
    held: Mapping[str, tuple[HoldKind, str]] = field(default_factory=dict)
    last: Mapping[str, tuple[HoldKind, str]] = field(default_factory=dict)
    conflicts: Mapping[str, str] = field(default_factory=dict)
    crowded: Mapping[str, str] = field(default_factory=dict)
    _kept: dict[tuple[str, tuple[str, ...]], NDArray[np.bool_]] = field(default_factory=dict)
    _numbers: dict[str, int] = field(default_factory=dict)

    def kept(self, tie: Tie) -> NDArray[np.bool_]:
        """Whether the rule is kept on each host (hosts)."""
        key = (tie.kind.name, tie.hosts)
        mask = self._kept.get(key)
        if mask is None:
            mask = self._kept[key] = tie.kind.allows(self._named(tie.hosts))
        return mask

    def _named(self, patterns: Sequence[str]) -> NDArray[np.bool_]:
        """Whether one of the patterns fits each host (hosts)."""
        if not self._numbers:
            self._numbers.update({name: number for number, name in enumerate(self.host_names)})
        named = np.zeros(len(self.host_names), dtype=np.bool_)
        named[[self._numbers[pattern] for pattern in patterns if pattern in self._numbers]] = True
        fits = [host_pattern(pattern) for pattern in patterns if "=" in pattern or WILDCARDS.search(pattern)]
        if fits:
            hosts = zip(self.host_names, self.labels, strict=True)
            named |= np.array([any(fit(name, labels) for fit in fits) for name, labels in hosts], dtype=np.bool_)
        return named

    def allowed(self, uuid: str) -> NDArray[np.bool_] | None:
        """Whether the domain's hard rules about hosts allow each host (hosts); None: all are allowed."""
        mask: NDArray[np.bool_] | None = None
        for tie in self.ties_of.get(uuid, ()):
            if tie.binding:
                mask = self.kept(tie) if mask is None else mask & self.kept(tie)
        return mask

    def broken_tie(self, uuid: str, host: int, *, hard: bool = True) -> Tie | None:
        """The first hard rule about hosts, or the first soft one that is no preference, which the domain breaks on the
        host.
        """
        ties = (tie for tie in self.ties_of.get(uuid, ()) if tie.kind.binding and tie.hard is hard)
        return next((tie for tie in ties if not self.kept(tie)[host]), None)

    def bonds_among(self, domains: Sequence[Domain]) -> dict[int, int]:
        """The numbers of the bonds of these domains, each with how many of them it has."""
        counts: dict[int, int] = {}
        for domain in domains:
            for number in self.bonds_of.get(domain.uuid, ()):
                counts[number] = counts.get(number, 0) + 1
        return counts

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
                if bond.hard and bond.kind.attracts:
                    ahead.extend(bond.members - found)
        return frozenset(found)


def gather(
    rules: Sequence[Rule], domains: Sequence[Domain], hosts: Sequence[Host], *, metadata: bool = True
) -> RuleSet:
    """The rules as they apply to these domains; a shut-off domain is under none.

    ``metadata``: whether the domains' own counts.
    """
    overs: dict[_Key, str] = {}
    members: dict[_Key, set[str]] = defaultdict(set)
    ties: dict[str, list[Tie]] = defaultdict(list)
    held: dict[str, tuple[HoldKind, str]] = {}
    last: dict[str, tuple[HoldKind, str]] = {}

    def apply(rule: Rule, uuid: str) -> None:
        kind = kind_of(rule)
        if isinstance(kind, GroupKind):
            members[rule.name, kind, rule.hard].add(uuid)
            if rule.over is not None:
                overs[rule.name, kind, rule.hard] = rule.over
        elif isinstance(kind, HostKind):
            ties[uuid].append(Tie(rule.name, kind, rule.hard, rule.hosts))
        elif isinstance(kind, HoldKind):
            (held if kind.binding else last)[uuid] = (kind, rule.name)

    by_name: dict[str, list[Rule]] = defaultdict(list)
    by_pattern: list[tuple[Callable[[str], bool], Rule]] = []
    for rule in rules:
        for name in rule.domains:
            if WILDCARDS.search(name):
                by_pattern.append((glob(name), rule))
            else:
                by_name[name].append(rule)
    for domain in domains:
        if domain.state is DomainState.SHUTOFF:
            continue
        for rule in () if UUID.fullmatch(domain.name) else by_name.get(domain.name, ()):
            apply(rule, domain.uuid)
        for rule in by_name.get(domain.uuid, ()):
            apply(rule, domain.uuid)
        for fits, rule in by_pattern:
            if fits(domain.name):
                apply(rule, domain.uuid)
    if metadata:
        holding = of_shape(HoldKind)
        groups = {(rule.name, rule.kind): rule for rule in rules}
        host_of = {domain.uuid: domain.host for domain in domains}
        labels_of = {host.name: host.labels for host in hosts}
        for domain in domains:
            if domain.placement is not None and domain.state is not DomainState.SHUTOFF:
                ties[domain.uuid] += _asked(domain, groups, members, host_of, labels_of)
                for kind in holding:
                    if kind.asks(domain.placement):
                        (held if kind.binding else last)[domain.uuid] = (kind, "metadata")
    zones = {over: _zones(over, hosts) for over in overs.values()}
    bonds = tuple(
        Bond(*key, frozenset(uuids), zones[over] if (over := overs.get(key)) else range(len(hosts)), over)
        for key, uuids in sorted(members.items(), key=lambda one: (one[0][0], one[0][1].name, one[0][2]))
        if len(uuids) > 1
    )
    bonds_of: dict[str, list[int]] = defaultdict(list)
    for number, bond in enumerate(bonds):
        for uuid in bond.members:
            bonds_of[uuid].append(number)
    found = RuleSet(
        [host.name for host in hosts],
        [host.labels for host in hosts],
        bonds,
        {uuid: tuple(numbers) for uuid, numbers in bonds_of.items()},
        {uuid: tuple(dict.fromkeys(several)) for uuid, several in ties.items() if several},
        held,
        last,
    )
    found.conflicts = _conflicts(found)
    crowded = _crowded(found)
    found.bonds = tuple(replace(bond, crowded=number in crowded) for number, bond in enumerate(found.bonds))
    found.crowded = {uuid: why for number, why in reversed(crowded.items()) for uuid in sorted(bonds[number].members)}
    return found


def _zones(over: str, hosts: Sequence[Host]) -> tuple[int, ...]:
    """By host, the first with the same value of the label. Those without it are together: none is known to be apart."""
    first: dict[str, int] = {}
    return tuple(first.setdefault(host.labels.get(over, ""), number) for number, host in enumerate(hosts))


def _asked(
    domain: Domain,
    groups: Mapping[tuple[str, str], Rule],
    members: Mapping[_Key, set[str]],
    host_of: Mapping[str, str],
    labels_of: Mapping[str, Mapping[str, str]],
) -> Iterator[Tie]:
    """What a domain's own metadata asks for, as rules about hosts: these bind this domain and no other.

    A group named there is a rule of the policy. ``members``: the domains that the policy puts into it, and no domain by
    its metadata. The domain may go where the rule allows one more beside these.

    Where it asks for more than counts, it may go nowhere.
    """
    asked = domain.placement
    if asked is None or _kept_together(domain.uuid, members):  # what binds this domain would bind those with it
        return
    hosts_of = {kind: hosts for kind in of_shape(HostKind) if (hosts := kind.asked(asked))}
    if too_much := _too_much([host for hosts in hosts_of.values() for host in hosts]):
        yield Tie(f"metadata ({too_much})", _NOWHERE, True, ())
        return
    for kind, hosts in hosts_of.items():
        yield Tie("metadata", kind, True, hosts)
    for group_kind in of_shape(GroupKind):
        for name in group_kind.asked(asked) if group_kind.for_one else ():
            if (rule := groups.get((name, group_kind.name))) is None:
                continue
            kind_there = group_kind if rule.most is None else group_kind.at_most(rule.most)
            others = members.get((name, kind_there, rule.hard), set()) - {domain.uuid}
            there = Counter(_zone(host_of[one], rule.over, labels_of) for one in others)
            full = [
                zone for zone, count in sorted(there.items()) if group_kind.attracts or not kind_there.allows(count)
            ]
            at = [pattern for zone in full for pattern in _patterns(zone, rule.over, labels_of)]
            if at and group_kind.for_one:
                yield Tie(f"metadata:{name}", group_kind.for_one, rule.hard, tuple(at))


def _too_much(hosts: Sequence[str]) -> str | None:
    """Which bound the hosts that a domain's metadata names exceed, or None."""
    if len(hosts) > _MOST_HOSTS:
        return f"names more than {_MOST_HOSTS} hosts or patterns"
    if any(len(host) > _LONGEST_HOST for host in hosts):
        return f"names a host in more than {_LONGEST_HOST} characters"
    if sum(len(WILDCARDS.findall(host)) for host in hosts) > _MOST_WILDCARDS:
        return f"has more than {_MOST_WILDCARDS} wildcards"
    return None


def _zone(host: str, over: str | None, labels_of: Mapping[str, Mapping[str, str]]) -> str:
    """The host's value of the label, empty without one; the host itself where there are no zones."""
    return host if over is None else labels_of[host].get(over, "")


def _patterns(zone: str, over: str | None, labels_of: Mapping[str, Mapping[str, str]]) -> list[str]:
    """The patterns that fit exactly the hosts of the zone."""
    if over is None:
        return [_literal(zone)]
    if zone:
        return [f"{over}={_literal(zone)}"]
    return [_literal(host) for host, labels in labels_of.items() if not labels.get(over)]


def _kept_together(uuid: str, members: Mapping[_Key, set[str]]) -> bool:
    return any(
        hard and kind.attracts and uuid in uuids and len(uuids) > 1 for (_, kind, hard), uuids in members.items()
    )


def _literal(name: str) -> str:
    """A shell pattern that fits this name alone."""
    return WILDCARDS.sub(lambda found: f"[{found[0]}]", name)


def _conflicts(rules: RuleSet) -> dict[str, str]:
    """By uuid of a domain whose hard rules no host can keep: why."""
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
                names += [tie.name for tie in rules.ties_of[one] if tie.binding]
        if not places.any():
            conflicts[uuid] = f"no host is left by {', '.join(dict.fromkeys(names))}"
    return conflicts


def _crowded(rules: RuleSet) -> dict[int, str]:
    """By number of a bond that has more domains than its hosts can hold: why."""
    crowded: dict[int, str] = {}
    for number, bond in enumerate(rules.bonds):
        size = len(bond.members)
        if not bond.hard or bond.kind.most(size) == size:
            continue
        allowed = [rules.allowed(uuid) for uuid in sorted(bond.members)]
        zones = np.array(bond.zones)
        masks = [mask for mask in allowed if mask is not None]
        places = len(np.unique(zones[np.logical_or.reduce(masks)] if len(masks) == len(allowed) else zones))
        if size > places * bond.kind.most(size):
            why = bond.kind.crowded(bond.name, size, places)
            if bond.over is not None:
                why += f", counted by their label {bond.over}"
            crowded[number] = why
    return crowded


def _kept_apart(rules: RuleSet, bundle: set[str]) -> str | None:
    """The first rule that does not allow on one host what other rules keep together."""
    for number in sorted({number for uuid in bundle for number in rules.bonds_of.get(uuid, ())}):
        bond = rules.bonds[number]
        size = len(bond.members & bundle)
        if bond.hard and size > 1 and bond.kind.most(size) < size:
            return bond.name
    return None
