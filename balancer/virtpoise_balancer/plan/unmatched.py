"""What a policy names and the group does not have: a rule that fits no domain or no host does nothing, and no host can
keep more memory than it has.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from operator import attrgetter

from virtpoise_balancer.analyse.reserve import fits
from virtpoise_balancer.model import DomainState, HostLimits, Policy, Reserve, Snapshot
from virtpoise_balancer.rules import GroupKind, of_shape
from virtpoise_balancer.rules.glob import UUID, WILDCARDS, glob
from virtpoise_balancer.rules.host_patterns import host_pattern

# How many notes a plan carries.
_MOST_NOTES = 50
_HINT = " (there is "
_GIB = 1 << 30


def notes(snapshot: Snapshot, policy: Policy) -> tuple[str, ...]:
    """A sentence for each part of a rule and each reserve that fits nothing, each host that has less memory than is
    reserved, and each group in a domain's metadata that is no rule.
    """
    found: list[str] = []
    for note in (*_of_rules(snapshot, policy), *_of_reserve(snapshot, policy), *_of_metadata(snapshot, policy)):
        found.append(note)
        if len(found) == _MOST_NOTES:
            break
    return tuple(found)


def about_common(policy: Policy, common: Policy | None) -> tuple[str, ...]:
    """How the notes begin that are about rules and reserves which a group's policy has from the common one."""
    if common is None:
        return ()
    rules = [f"the rule {rule.name!r} names " for rule in policy.rules if rule in common.rules]
    reserves = [_start_of(entry) for entry in policy.reserve if entry in common.reserve]
    limits = [_start_of(entry) for entry in policy.hosts if entry in common.hosts]
    return (*rules, *reserves, *limits)


def own_notes(found: Sequence[str], policy: Policy, common: Policy | None) -> tuple[str, ...]:
    """The notes without those about the common policy, for who does not know the other groups."""
    shared = about_common(policy, common)
    return tuple(note for note in found if not note.startswith(shared))


def fit_no_group(
    group: str, notes_of: Mapping[str, Sequence[str]], common: Mapping[str, tuple[str, ...]]
) -> tuple[str, ...]:
    """The notes of the group, without those about what it shares with a group that has not the same note.

    ``notes_of`` and ``common``: the notes of all groups, and how those about the common policy begin.
    """
    bare = {name: {_without_hint(note) for note in notes} for name, notes in notes_of.items()}

    def everywhere(note: str) -> bool:
        sharing = [name for name in bare if note.startswith(common[name])]
        return all(_without_hint(note) in bare[name] for name in sharing)

    return tuple(note for note in notes_of[group] if not note.startswith(common[group]) or everywhere(note))


def _without_hint(note: str) -> str:
    return note.partition(_HINT)[0]


def fits_none(pattern: str, names: Collection[str]) -> bool:
    """Whether the pattern fits none of the names."""
    return not any(map(glob(pattern), names)) if WILDCARDS.search(pattern) else pattern not in names


def like(name: str, names: Iterable[str]) -> str:
    """A hint at the first of the names that is the same but for its domain: one is short, the other fully qualified;
    else nothing.
    """
    short = name.partition(".")[0]
    same = sorted(other for other in names if other != name and other.partition(".")[0] == short)
    return f"{_HINT}{same[0]!r})" if same else ""


def _of_rules(snapshot: Snapshot, policy: Policy) -> Iterator[str]:
    if not policy.rules:
        return
    hosts = {host.name for host in snapshot.hosts}
    with_labels = [host.name for host in snapshot.hosts], [host.labels for host in snapshot.hosts]
    labels = {name for host in snapshot.hosts for name in host.labels}
    domains = {domain.name for domain in snapshot.domains if not UUID.fullmatch(domain.name)}
    uuids = {domain.uuid for domain in snapshot.domains}
    for rule in policy.rules:
        for pattern in rule.hosts:
            if "=" in pattern and not any(map(host_pattern(pattern), *with_labels)):
                yield f"the rule {rule.name!r} names {pattern!r}, and no host has this label"
            if "=" not in pattern and fits_none(pattern, hosts):
                yield f"the rule {rule.name!r} names {pattern!r}, and no host is called so{like(pattern, hosts)}"
        unknown = [one for one in rule.domains if one not in uuids and fits_none(one, domains)]
        without = [] if rule.over is None else [host.name for host in snapshot.hosts if not host.labels.get(rule.over)]
        if without and len(unknown) < len(rule.domains):
            none = "no host has it" if rule.over not in labels else f"{without[0]!r} has none"
            yield f"the rule {rule.name!r} counts by the label {rule.over!r}, and {none}"
        for pattern in unknown:
            yield f"the rule {rule.name!r} names {pattern!r}, and no domain is called so"


def _of_reserve(snapshot: Snapshot, policy: Policy) -> Iterator[str]:
    entries: tuple[Reserve | HostLimits, ...] = (*policy.reserve, *policy.hosts)
    for entry in entries:
        if not any(fits(entry, host) for host in snapshot.hosts):
            yield f"{_start_of(entry)}fits no host"
    for host in snapshot.hosts:
        if policy.reserve and host.known and host.memory_reserved_bytes >= host.memory_bytes:
            reserved, memory = host.memory_reserved_bytes / _GIB, host.memory_bytes / _GIB
            yield f"{reserved:.1f} GiB are reserved on {host.name!r}, and it has {memory:.1f} GiB of memory"


def _start_of(entry: Reserve | HostLimits) -> str:
    what = "the reserve" if isinstance(entry, Reserve) else "the entry of policy.hosts"
    return f"{what} for {', '.join(entry.hosts)} "


def _of_metadata(snapshot: Snapshot, policy: Policy) -> Iterator[str]:
    if policy.metadata != "own":
        return
    groups = {(rule.kind, rule.name) for rule in policy.rules}
    for domain in filter(attrgetter("placement"), snapshot.domains):
        if (asked := domain.placement) is None or domain.state is DomainState.SHUTOFF:
            continue
        for kind in of_shape(GroupKind):
            for name in kind.asked(asked):
                if (kind.name, name) not in groups:
                    yield f"the metadata of {domain.name!r} names the group {name!r}: the policy has no {kind.name} rule of this name"
