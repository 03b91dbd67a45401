"""What can be used in a configuration and is still likely a mistake, as far as the file alone shows it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from virtpoise_balancer.config import Config
from virtpoise_balancer.monitor.queries import has_matchers
from virtpoise_balancer.plan.unmatched import fits_none, like
from virtpoise_balancer.rules import KINDS, GroupKind
from virtpoise_balancer.rules.glob import UUID, WILDCARDS


def warnings(config: Config) -> list[str]:
    """One line each, which names the key."""
    found = list(_of_queries(config))
    every = config.each_group
    of_rules = {name: list(_of_rules(own)) for name, own in every.items()}
    # The rules that groups take over from the common policy. Not every group has the hosts that they name.
    common = [of_rules.pop(name) for name, own in every.items() if name and own.policy.rules == config.policy.rules]
    found += [line for line in (common[0] if common else ()) if all(line in lines for lines in common)]
    for name, own in every.items():
        lines = [*_of_hosts(own), *_of_migrations(own), *of_rules.get(name, ())]
        found += [f"groups.{name}.{line}" if name else line for line in lines]
    return found


def _of_queries(config: Config) -> Iterator[str]:
    for name, query in config.prometheus.queries.items():
        if config.prometheus.matchers and not has_matchers(query):
            yield f"prometheus.queries.{name}: has no $matchers, so targets of any job count"


def _of_hosts(config: Config) -> Iterator[str]:
    libvirt = config.libvirt
    if not libvirt.names_hosts:
        which = config.prometheus.matchers or "any label"
        yield f"libvirt.pattern: not set, so every target with {which} is taken for a host, and mode automatic is refused"
    for key, uri in {"uri": libvirt.uri, **{f"hosts.{name}": uri for name, uri in libvirt.hosts.items()}}.items():
        if re.search(r"[?&]no_verify=(?!0)", uri):
            yield f"libvirt.{key}: no_verify lets any machine take the host's place"


def _of_migrations(config: Config) -> Iterator[str]:
    if config.migration.post_copy:
        yield (
            "migration.post_copy: a domain that is migrated so is lost if a host, QEMU or the network between them fails "
            "before the rest of its memory has arrived"
        )


def _of_rules(config: Config) -> Iterator[str]:
    libvirt, admits = config.libvirt, config.libvirt.admission()
    for number, rule in enumerate(config.policy.rules):
        for pattern in rule.hosts:
            # A pattern against a pattern is not decided here: the plan and the doctor know the hosts.
            by_name = not libvirt.pattern or not WILDCARDS.search(pattern)
            if (
                "=" not in pattern
                and libvirt.names_hosts
                and by_name
                and fits_none(pattern, libvirt.hosts)
                and not admits(pattern)
            ):
                yield (
                    f"policy.rules.{number}.hosts: {pattern!r} fits no host of libvirt.hosts and libvirt.pattern"
                    f"{like(pattern, libvirt.hosts)}"
                )
        names = [one for one in rule.domains if not UUID.fullmatch(one)]
        if config.policy.repair_rules and isinstance(KINDS[rule.kind], GroupKind) and names:
            yield (
                f"policy.rules.{number}.domains: {names[0]!r} is a name, which whoever defines a domain chooses; with "
                "repair_rules it has others moved: where tenants define domains, list uuids"
            )
