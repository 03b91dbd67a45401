"""Soft rules choose which domain goes, not only where it goes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from builders import GIB, domain, group, host, where
from virtpoise_balancer.model import Domain, Host, Imbalance, Policy, Rule, Snapshot
from virtpoise_balancer.plan import plan

APART = Rule(name="databases", kind="apart", domains=("db*",), hard=False)


def sixteen(name: str, load: float) -> Host:
    return host(name, load, load, load, cpus=16, memory_bytes=64 * GIB, memory_used_bytes=16 * GIB)


def equal(name: str, on: str, cores: float = 3.6, gib: float = 2.0) -> Domain:
    return domain(name, on, cores, memory_bytes=int(gib * GIB))


def databases(load: float, others: float, *more: Domain) -> Snapshot:
    """Each host has a database; h1 has three domains besides that are equal to its own."""
    return group(
        sixteen("h1", load),
        sixteen("h2", others),
        sixteen("h3", others),
        equal("db1", "h1"),
        *(equal(f"w{number}", "h1") for number in range(3)),
        equal("db2", "h2", 1.0),
        equal("db3", "h3", 1.0),
        *more,
    )


def test_of_equal_domains_one_goes_that_breaks_no_rule() -> None:
    assert where(plan(databases(0.9, 0.3), Policy())) == {"db1": "h2"}
    assert where(plan(databases(0.9, 0.3), Policy(rules=(APART,)))) == {"w0": "h2"}


def test_balancing_moves_one_that_breaks_no_rule() -> None:
    uneven = databases(0.7, 0.2)
    assert "db1" in where(plan(uneven, Policy(imbalance=Imbalance(deviation_ratio=0.1))))
    made = plan(uneven, Policy(rules=(APART,), imbalance=Imbalance(deviation_ratio=0.1)))
    assert where(made) == {"w0": "h2", "w1": "h3"}


def test_balancing_breaks_a_rule_where_nothing_else_evens_out() -> None:
    uneven = databases(0.7, 0.2)
    policy = Policy(rules=(APART, Rule(name="stay", kind="ignore", domains=("w*",))), imbalance=Imbalance())
    assert where(plan(uneven, policy)) == {"db1": "h2"}


def test_a_rule_is_kept_though_others_are_dearer() -> None:
    """Fewest moves come first, then the rules, then the bytes."""
    dear = databases(0.9, 0.3)
    dear = replace(
        dear, domains=tuple(replace(d, memory_bytes=8 * GIB) if d.name[0] == "w" else d for d in dear.domains)
    )
    assert where(plan(dear, Policy(rules=(APART,)))) == {"w0": "h2"}
    small = tuple(replace(d, cpu_cores=1.8) if d.name[0] == "w" else d for d in dear.domains)
    assert where(plan(replace(dear, domains=small), Policy(rules=(APART,)))) == {"db1": "h2"}


@pytest.mark.parametrize(
    "rule",
    [
        Rule(name="home", kind="prefer", domains=("db1",), hosts=("h1",)),
        Rule(name="home", kind="only_on", domains=("db1",), hosts=("h1",), hard=False),
        Rule(name="home", kind="never_on", domains=("db1",), hosts=("h2", "h3"), hard=False),
        Rule(name="home", kind="together", domains=("db1", "friend"), hard=False),
    ],
    ids=lambda rule: rule.kind,
)
def test_each_kind_of_soft_rule_keeps_its_domain(rule: Rule) -> None:
    here = databases(0.9, 0.3, domain("friend", "h1", 0.2))
    assert where(plan(here, Policy())) == {"db1": "h2"}
    assert where(plan(here, Policy(rules=(rule,)))) == {"w0": "h2"}


def test_what_keeps_the_rule_only_where_there_is_no_room_counts_as_what_breaks_it() -> None:
    """db1 is the cheapest, and h3 has no database, but no room for it either."""
    here = databases(0.9, 0.3)
    hosts = tuple(sixteen("h3", 0.75) if one.name == "h3" else one for one in here.hosts)
    domains = tuple(replace(d, memory_bytes=GIB) if d.name == "db1" else d for d in here.domains if d.name != "db3")
    assert where(plan(replace(here, hosts=hosts, domains=domains), Policy(rules=(APART,)))) == {"w0": "h2"}


def test_of_equally_cheap_domains_one_goes_whose_rule_is_broken_here() -> None:
    here = group(
        sixteen("h1", 0.9),
        sixteen("h2", 0.3),
        equal("a0", "h1"),
        equal("a1", "h1"),
        equal("db1", "h1"),
        equal("db2", "h1"),
    )
    assert where(plan(here, Policy())) == {"a0": "h2"}
    assert where(plan(here, Policy(rules=(APART,)))) == {"db1": "h2"}
