"""A domain's own metadata binds that domain and no other: with nothing but metadata, no tenant moves the domain of
another.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import domain, group, host, where
from virtpoise_balancer.model import Domain, Placement, Policy, Rule
from virtpoise_balancer.plan import plan

POLICY = Policy(repair_rules=True)
HOSTS = (host("h1", 0.2, 0.2), host("h2", 0.2, 0.2), host("evil", 0.1, 0.1))
BIG = 2**30
VICTIM = domain("victim", "h1", 0.1, placement=Placement(together=("web",), apart=("db",)))


def rule(kind: str, *domains: str, name: str, hard: bool = True) -> Rule:
    return Rule(name=name, kind=kind, domains=domains, hard=hard)


def moves(*domains: Domain, rules: tuple[Rule, ...] = (), metadata: str = "own") -> dict[str, str]:
    policy = replace(POLICY, rules=rules, metadata=metadata)  # type: ignore[arg-type]
    return where(plan(group(*HOSTS, *domains), policy))


@pytest.mark.parametrize(
    "attacker",
    [
        Placement(together=("web",)),
        Placement(together=("web",), only_on=("evil",)),
        Placement(together=("web",), ignore=True),
        Placement(apart=("db",)),
        Placement(apart=("db",), only_on=("h1",)),
    ],
)
@pytest.mark.parametrize("at", ["evil", "h1"])
@pytest.mark.parametrize("kind", [None, "together", "apart"])
def test_one_tenants_metadata_moves_no_other_tenants_domain(attacker: Placement, at: str, kind: str | None) -> None:
    """Whether the policy has such groups, with a member of its own, or none."""
    rules = () if kind is None else (rule(kind, "listed", "other", name="web" if kind == "together" else "db"),)
    listed = domain("listed", "h1" if kind == "together" else "h2", 0.1)
    ours = moves(VICTIM, listed, rules=rules)
    theirs = domain("attacker", at, 0.1, memory_bytes=BIG, placement=attacker)
    assert {name: to for name, to in moves(VICTIM, listed, theirs, rules=rules).items() if name != "attacker"} == ours


def test_a_name_that_fits_a_rule_and_metadata_together_lead_nobody_to_a_host_of_its_choice() -> None:
    together = rule("together", "db-*", name="databases")
    db = domain("db-1", "h1", 0.1, memory_bytes=2 * BIG)
    attacker = domain("db-x", "h1", 0.1, memory_bytes=BIG, placement=Placement(only_on=("evil",)))
    assert moves(db, attacker, rules=(together,)) == {}


@pytest.mark.parametrize("kind", ["together", "apart"])
def test_a_domain_that_is_named_like_the_uuid_in_a_rule_is_not_in_it(kind: str) -> None:
    """Rules list uuids so that no owner's choice of a name matters."""
    uuid = "178a5bcc-1111-4222-8333-123456789abc"
    listed = domain("listed", "h1", 0.1, uuid=uuid, memory_bytes=100)
    attacker = domain(uuid, "h1" if kind == "apart" else "evil", 0.1, uuid="attacker", memory_bytes=BIG)
    by_uuid = rule(kind, uuid, "other", name="listed")
    assert moves(listed, attacker, rules=(by_uuid,)) == {}
    notes = plan(group(*HOSTS, attacker), replace(POLICY, rules=(by_uuid,))).notes
    assert f"the rule 'listed' names {uuid!r}, and no domain is called so" in notes


def test_a_domain_joins_a_group_of_the_policy_and_itself_moves_to_keep_its_rule() -> None:
    together, apart = rule("together", "a", name="web"), rule("apart", "b", name="db")
    a, b = domain("a", "h2", 0.1, memory_bytes=100), domain("b", "h1", 0.1, memory_bytes=100)
    joins = domain("joins", "h1", 0.1, memory_bytes=BIG, placement=Placement(together=("web",)))
    assert moves(a, joins, rules=(together,)) == {"joins": "h2"}
    leaves = replace(joins, placement=Placement(apart=("db",), never_on=("h2",)))
    assert moves(b, leaves, rules=(apart,)) == {"joins": "evil"}
    assert moves(a, joins, rules=(replace(together, hard=False),)) == {}
    assert moves(a, joins, rules=(replace(together, name="another"),)) == {}


def test_what_a_domain_asks_for_itself_holds_for_it() -> None:
    own = domain("own", "h1", 0.1, placement=Placement(never_on=("h?",)))
    assert moves(own) == {"own": "evil"}
    assert moves(own, metadata="ignore") == {}
    hot = group(
        host("h1", 0.9, 0.9), host("h2", 0.1, 0.1), domain("stays", "h1", 3.0, placement=Placement(ignore=True))
    )
    once = replace(POLICY, cpu=replace(POLICY.cpu, consecutive=2))
    assert where(plan(hot, once)) == {}
    assert where(plan(hot, replace(once, metadata="ignore"))) == {"stays": "h2"}


names = st.lists(st.sampled_from(["web", "db", "h1", "h?", "evil", "*"]), max_size=2).map(tuple)
placements = st.builds(
    Placement, together=names, apart=names, only_on=names, never_on=names, prefer=names, ignore=st.booleans()
)


@given(st.lists(st.tuples(st.sampled_from(["h1", "h2", "evil"]), st.none() | placements), max_size=5))
def test_where_the_policys_own_rules_hold_only_domains_with_metadata_are_moved_for_a_rule(
    found: list[tuple[str, Placement | None]],
) -> None:
    rules = (rule("together", "t1", "t2", name="web"), rule("apart", "a1", "a2", name="db"))
    kept = (domain("t1", "h2", 0.01), domain("t2", "h2", 0.01), domain("a1", "h1", 0.01), domain("a2", "h2", 0.01))
    others = tuple(
        domain(f"d{i}", at, 0.01, memory_bytes=BIG, placement=placement) for i, (at, placement) in enumerate(found)
    )
    with_metadata = {one.name for one in others if one.placement is not None}
    assert moves(*kept, *others, rules=rules).keys() <= with_metadata
