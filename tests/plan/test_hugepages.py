"""Static huge pages are a resource of their own: a pool is no memory in use, and what lies in it needs no other."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest

from builders import GIB, domain, group, host, thesis_policy, where
from virtpoise_balancer.analyse.facts import with_facts
from virtpoise_balancer.formats import read_snapshot, write_snapshot
from virtpoise_balancer.model import (
    Detail,
    Domain,
    Facts,
    Host,
    HostState,
    HugePages,
    MemoryCell,
    Policy,
    Reason,
    Refusal,
    SpaceTrigger,
    Trigger,
)
from virtpoise_balancer.plan import plan
from virtpoise_balancer.plan.default.group import Group
from virtpoise_balancer.plan.default.search_state import SearchState
from virtpoise_balancer.plan.default.strategy import sources_of
from virtpoise_balancer.plan.default.trial import Trial
from virtpoise_balancer.plan.problems import find

POLICY = Policy(cpu=Trigger(threshold=0.8, consecutive=2), memory=SpaceTrigger(threshold=0.9, consecutive=2))
MIB = 1 << 20
SMALL, LARGE = 2 * MIB, GIB


def pages(gib: int, size: int = SMALL) -> tuple[HugePages, ...]:
    return (HugePages(page_bytes=size, memory_bytes=gib * GIB),)


def backed(name: str, on: str, cores: float, gib: int = 4, size: int = SMALL) -> Domain:
    return domain(name, on, cores, memory_bytes=gib * GIB, hugepages=pages(gib, size))


def pool(name: str, *loads: float, gib: int = 0, size: int = SMALL) -> Host:
    """A host with 8 GiB of ordinary memory, all but 1 GiB in use, and a pool of huge pages besides."""
    return host(name, *loads, memory_ratio=0.875, hugepages_free=pages(gib, size))


def figures(refusal: Refusal) -> Detail:
    """Without how many hosts refused for which reason."""
    return {key: value for key, value in refusal.detail.items() if not key.startswith("hosts_")}


def test_a_domain_in_huge_pages_needs_none_of_the_ordinary_memory() -> None:
    """The destination has 1 GiB of that left."""
    snapshot = group(pool("h1", 0.9, 0.9), pool("h2", 0.1, 0.1, gib=4), backed("a", "h1", 3.0))
    assert where(plan(snapshot, POLICY)) == {"a": "h2"}


@pytest.mark.parametrize("destination", [pool("h2", 0.1, 0.1, gib=3), pool("h2", 0.1, 0.1, gib=64, size=LARGE)])
@pytest.mark.parametrize("policy", [POLICY, thesis_policy()])
def test_a_host_without_enough_pages_of_the_size_takes_it_not(destination: Host, policy: Policy) -> None:
    made = plan(group(pool("h1", 0.9, 0.9), destination, backed("a", "h1", 3.0)), policy)
    assert not made.moves
    (refusal,) = (one for one in made.refusals if one.domain == "a" and one.host == "h2")
    assert refusal.reason is Reason.DESTINATION_HUGEPAGES
    assert refusal.detail["need_bytes"] == 4 * GIB
    assert refusal.detail["page_bytes"] == SMALL


def test_one_pool_is_not_given_away_twice_in_a_plan() -> None:
    domains = [backed(name, "h1", 1.0) for name in "abcdef"]
    hosts = pool("h1", 1.0, 1.0), pool("h2", 0.1, 0.1, gib=11), pool("h3", 0.1, 0.1, gib=5)
    made = plan(group(*hosts, *domains), replace(POLICY, cpu=Trigger(threshold=0.5, consecutive=2)))
    arrivals = list(where(made).values())
    assert arrivals
    assert arrivals.count("h2") <= 2
    assert arrivals.count("h3") <= 1


def test_pages_for_a_domain_that_is_on_its_way_are_taken() -> None:
    coming = replace(backed("b", "h3", 0.1), migrating_to="h2")
    hosts = pool("h1", 0.9, 0.9), pool("h2", 0.1, 0.1, gib=6), pool("h3", 0.1, 0.1)
    made = plan(group(*hosts, backed("a", "h1", 3.0), coming), POLICY)
    assert where(made) == {}


def test_a_domain_in_huge_pages_does_not_relieve_ordinary_memory() -> None:
    full = host("h1", 0.3, 0.3, memory_ratio=0.95, memory_ratio_window=(0.95, 0.95))
    ordinary = domain("b", "h1", 0.1, memory_bytes=2 * GIB, memory_resident_bytes=2 * GIB)
    made = plan(
        group(
            full, host("h2", 0.1, 0.1, memory_ratio=0.1, hugepages_free=pages(8)), backed("a", "h1", 0.1, 2), ordinary
        ),
        POLICY,
    )
    assert where(made) == {"b": "h2"}


def test_the_search_counts_the_pages_of_its_own_steps() -> None:
    snapshot = group(pool("h1", 1.0, 1.0), pool("h2", 0.1, 0.1, gib=7), backed("a", "h1", 1.0), backed("b", "h1", 1.0))
    made = Group(snapshot, POLICY)
    sources = sources_of(made, find(snapshot, POLICY, made.overloads).attempt, made.overloads)
    state = SearchState(Trial(made, sources, np.array([True, False])), sources)
    first, second = sources[0].candidates
    h2 = made.index["h2"]
    assert state.allowed(second, h2, {})
    state.put(first, h2)
    assert not state.allowed(second, h2, {})
    state.take_back()
    assert state.allowed(second, h2, {})


def test_hosts_that_differ_in_their_pages_alone_are_both_tried() -> None:
    """The largest domain would take the first of two hosts that are equally empty. Only that has pages for another."""
    hosts = pool("h1", 1.0, 1.0), pool("h2", 0.1, 0.1, gib=4), pool("h3", 0.1, 0.1)
    domains = domain("a", "h1", 4.0, memory_bytes=MIB), backed("b", "h1", 3.0), domain("c", "h1", 0.5, memory_bytes=MIB)
    made = plan(group(*hosts, *domains), replace(POLICY, cpu=Trigger(threshold=0.75, consecutive=2, recovery=0.2)))
    assert made.solved
    assert where(made) == {"a": "h3", "b": "h2"}


def on_node(number: int, name: str, on: str, cores: float, gib: int = 4) -> Domain:
    return replace(backed(name, on, cores, gib), memory_nodes=(number,))


def pools(name: str, *loads: float, gib: Sequence[int]) -> Host:
    """A host with a pool on each of its NUMA nodes."""
    each = (HugePages(page_bytes=SMALL, memory_bytes=one * GIB, node=node) for node, one in enumerate(gib))
    return host(name, *loads, memory_ratio=0.875, hugepages_free=tuple(each))


@pytest.mark.parametrize("policy", [POLICY, thesis_policy()])
def test_pages_of_another_node_are_none_for_a_domain_that_is_bound_to_one(policy: Policy) -> None:
    guest = on_node(1, "a", "h1", 3.0)
    made = plan(group(pool("h1", 0.9, 0.9), pools("h2", 0.1, 0.1, gib=(3, 3)), guest), policy)
    assert not made.moves
    (refusal,) = (one for one in made.refusals if one.domain == "a" and one.host == "h2")
    assert refusal.reason is Reason.DESTINATION_HUGEPAGES
    assert figures(refusal) == {"page_bytes": SMALL, "node": 1, "need_bytes": 4 * GIB, "free_bytes": 3 * GIB}
    free = replace(guest, memory_nodes=())
    for destination, one in (((0, 4), guest), ((3, 3), free), ((3, 3), replace(guest, memory_nodes=(0, 1)))):
        hosts = pool("h1", 0.9, 0.9), pools("h2", 0.1, 0.1, gib=destination)
        assert where(plan(group(*hosts, one), policy)) == {"a": "h2"}


def test_what_it_is_bound_to_is_a_fact_of_libvirt() -> None:
    snapshot = group(pool("h1", 0.9, 0.9), pools("h2", 0.1, 0.1, gib=(4, 0)), backed("a", "h1", 3.0))
    assert where(plan(snapshot, POLICY)) == {"a": "h2"}
    known = with_facts(snapshot, Facts(nodes={"uuid-of-a": (1,)}))
    assert where(plan(known, POLICY)) == {}
    assert read_snapshot(write_snapshot(known), "x") == known


def test_pages_of_an_unknown_node_may_be_of_any() -> None:
    snapshot = group(pool("h1", 0.9, 0.9), pool("h2", 0.1, 0.1, gib=4), on_node(1, "a", "h1", 3.0))
    assert where(plan(snapshot, POLICY)) == {"a": "h2"}


def test_one_nodes_pages_are_not_given_away_twice_in_a_plan() -> None:
    """The nodes have room for one domain each, and both are bound to the same."""
    domains = on_node(0, "a", "h1", 1.0), on_node(0, "b", "h1", 1.0)
    hosts = pool("h1", 1.0, 1.0), pools("h2", 0.1, 0.1, gib=(4, 4))
    drained = replace(hosts[0], state=HostState.DRAINING)
    assert len(plan(group(drained, hosts[1], *domains), POLICY).moves) == 1
    apart = domains[0], replace(domains[1], memory_nodes=(1,))
    assert len(plan(group(drained, hosts[1], *apart), POLICY).moves) == 2


def over(nodes: Sequence[int], name: str, on: str, gib: int = 4) -> Domain:
    return replace(backed(name, on, 1.0, gib), memory_nodes=tuple(nodes))


@pytest.mark.parametrize("policy", [POLICY, thesis_policy()])
def test_memory_that_may_come_from_several_nodes_needs_their_sum(policy: Policy) -> None:
    """`<memory mode='strict' nodeset='0-1'/>`: what other nodes have free does not count."""
    for free, destination in (((2, 2, 0), {"a": "h2"}), ((2, 1, 8), {}), ((0, 4, 0), {"a": "h2"})):
        hosts = pool("h1", 0.9, 0.9), pools("h2", 0.1, 0.1, gib=free)
        made = plan(group(*hosts, replace(over((0, 1), "a", "h1"), cpu_cores=3.0)), policy)
        assert where(made) == destination
    (refusal,) = (
        one
        for one in plan(
            group(pool("h1", 0.9, 0.9), pools("h2", 0.1, 0.1, gib=(2, 1, 8)), over((0, 1), "a", "h1")), policy
        ).refusals
        if one.domain == "a" and one.host == "h2"
    )
    assert figures(refusal) == {"page_bytes": SMALL, "nodes": "0, 1", "need_bytes": 4 * GIB, "free_bytes": 3 * GIB}


def test_what_is_bound_to_one_of_the_nodes_takes_of_their_sum() -> None:
    """5 GiB on nodes 0 and 1 are too few for both, although each alone has room; 8 are not."""
    domains = over((0,), "a", "h1"), over((0, 1), "b", "h1")
    drained = host("h1", 0.1, 0.1, state=HostState.DRAINING)
    for free, moves in (((4, 1, 9), 1), ((4, 4, 0), 2)):
        assert len(plan(group(drained, pools("h2", 0.1, 0.1, gib=free), *domains), POLICY).moves) == moves


def test_sets_of_nodes_with_one_in_common_count_together() -> None:
    """Each fits, and so do any two of one set: all three need 12 GiB of nodes 0 to 2, which have 10."""
    domains = over((0, 1), "a", "h1"), over((1, 2), "b", "h1"), over((1,), "c", "h1")
    drained = host("h1", 0.1, 0.1, state=HostState.DRAINING)
    for free, moves in (((3, 4, 3, 9), 2), ((4, 4, 4), 3)):
        assert len(plan(group(drained, pools("h2", 0.1, 0.1, gib=free), *domains), POLICY).moves) == moves


@pytest.mark.parametrize("policy", [POLICY, thesis_policy()])
def test_each_cell_needs_pages_of_its_own_nodes(policy: Policy) -> None:
    cells = MemoryCell(share=0.75, nodes=(0,)), MemoryCell(share=0.25, nodes=(1,))
    guest = replace(backed("a", "h1", 3.0), memory_nodes=(0, 1), memory_cells=cells)
    for free, destination in (((3, 1), {"a": "h2"}), ((1, 3), {}), ((2, 8), {}), ((8, 0), {})):
        made = plan(group(pool("h1", 0.9, 0.9), pools("h2", 0.1, 0.1, gib=free), guest), policy)
        assert where(made) == destination
    partly = replace(guest, memory_nodes=(1,), memory_cells=(MemoryCell(share=0.75), cells[1]))
    for free, destination in (((1, 3), {"a": "h2"}), ((9, 0), {}), ((0, 3), {})):
        made = plan(group(pool("h1", 0.9, 0.9), pools("h2", 0.1, 0.1, gib=free), partly), policy)
        assert where(made) == destination


@pytest.mark.parametrize("policy", [POLICY, thesis_policy()])
def test_pages_that_are_not_known_are_no_fact(policy: Policy) -> None:
    unknown = replace(pool("h2", 0.1, 0.1), hugepages_free=None)
    snapshot = group(pool("h1", 0.9, 0.9), unknown, backed("a", "h1", 3.0))
    made = plan(snapshot, policy)
    assert not made.moves
    (refusal,) = (one for one in made.refusals if one.domain == "a" and one.host == "h2")
    assert refusal.reason is Reason.DESTINATION_HUGEPAGES
    assert "free_bytes" not in refusal.detail
    assert refusal.detail["unknown"] == "its free huge pages are not known"
    assert read_snapshot(write_snapshot(snapshot), "x") == snapshot
    assert where(plan(group(pool("h1", 0.9, 0.9), unknown, domain("a", "h1", 3.0, memory_bytes=MIB)), policy)) == {
        "a": "h2"
    }


def test_random_sets_of_nodes_fit_exactly_where_a_flow_does() -> None:
    """Against maximum flow, for domains of one host that are drained together."""
    rng = random.Random(66)
    agreed = 0
    for _ in range(60):
        free = [rng.randint(0, 5) for _ in range(3)]
        sets = [tuple(sorted(rng.sample(range(3), rng.randint(1, 3)))) for _ in range(3)]
        needs = [rng.randint(1, 4) for _ in range(3)]
        domains = [
            replace(over(nodes, name, "h1", gib), cpu_cores=0.1)
            for nodes, name, gib in zip(sets, "abc", needs, strict=True)
        ]
        drained = host("h1", 0.1, 0.1, state=HostState.DRAINING)
        made = plan(group(drained, pools("h2", 0.1, 0.1, gib=free), *domains), POLICY)
        fits = flows(needs, sets, free) == sum(needs)
        assert (len(made.moves) == 3) == fits
        agreed += fits
    assert 5 < agreed < 55


def flows(needs: Sequence[int], sets: Sequence[Sequence[int]], free: Sequence[int]) -> int:
    """The most that can be placed: of each need on its nodes, of each node what is free."""
    if not needs:
        return 0
    best = flows(needs[1:], sets[1:], free)
    first, *rest = sets[0]
    others = needs[1:], sets[1:]
    for taken in range(1, needs[0] + 1):
        for split in splits(taken, (first, *rest), free):
            best = max(best, taken + flows(*others, [have - split.get(node, 0) for node, have in enumerate(free)]))
    return best


def splits(taken: int, nodes: Sequence[int], free: Sequence[int]) -> Iterator[dict[int, int]]:
    if not nodes:
        if taken == 0:
            yield {}
        return
    for here in range(min(taken, free[nodes[0]]) + 1):
        for others in splits(taken - here, nodes[1:], free):
            yield {nodes[0]: here, **others}
