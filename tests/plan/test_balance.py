"""Groups are evened out by load, memory, domains or vCPUs, by exchanges as well, and what stays uneven is named."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from statistics import pstdev

import pytest

from builders import GIB, domain, group, host, where
from random_groups import carry_out
from virtpoise_balancer.model import Domain, Host, Imbalance, Placement, Plan, Policy, Problem, Rule, Snapshot, Trigger
from virtpoise_balancer.plan import plan


def sixteen(name: str, load: float = 0.3, used_gib: int = 16) -> Host:
    return host(name, load, load, load, cpus=16, memory_bytes=64 * GIB, memory_used_bytes=used_gib * GIB)


def even(**imbalance: object) -> Policy:
    return Policy(imbalance=Imbalance(**imbalance))  # type: ignore[arg-type]


def counts(snapshot: Snapshot, made: Plan, policy: Policy) -> list[int]:
    world, faults = carry_out(snapshot, policy, made)
    assert faults == []
    there = Counter(world.host_of.values())
    return [there[one.name] for one in snapshot.hosts]


def three(
    domains: list[Domain], loads: tuple[float, ...] = (0.3, 0.3, 0.3), used: tuple[int, ...] = (16, 16, 16)
) -> Snapshot:
    hosts = [sixteen(f"h{n + 1}", loads[n], used[n]) for n in range(3)]
    return group(*hosts, *domains)


def test_numbers_of_domains_are_evened_out() -> None:
    seen = three([domain(f"d{n}", "h1", 0.1) for n in range(9)])
    policy = even(by="domains")
    made = plan(seen, policy)
    assert counts(seen, made, policy) == [3, 3, 3]
    assert made.solved
    assert made.summary.startswith("the group is uneven in its numbers of domains, and h1 has most: move d0 to")
    assert plan(seen, even()).moves == ()


def test_the_cheapest_of_equals_goes() -> None:
    seen = three([domain(f"d{n}", "h1", 0.1, memory_bytes=(9 - n) * GIB) for n in range(6)])
    made = plan(seen, even(by="domains", deviation_ratio=0.9))
    assert [move.domain for move in made.moves][:1] == ["d5"]


def test_vcpus_are_evened_out_by_the_cpus_that_hosts_have() -> None:
    large = replace(sixteen("h2"), cpus=32)
    domains = [domain(f"d{n}", "h1", 0.1, vcpus=2) for n in range(12)]
    seen = group(sixteen("h1"), large, *domains)
    policy = even(by="vcpus", deviation_ratio=0.05)
    assert counts(seen, plan(seen, policy), policy) == [4, 8]


def test_used_memory_is_evened_out() -> None:
    domains = [domain(f"d{n}", "h1", 0.1, memory_bytes=4 * GIB) for n in range(10)]
    seen = three(domains, used=(48, 8, 8))
    policy = even(by="memory", deviation_ratio=0.05)
    made = plan(seen, policy)
    world, faults = carry_out(seen, policy, made)
    assert faults == []
    assert pstdev(world.memory[f"h{n}"] / (64 * GIB) for n in (1, 2, 3)) <= 0.05
    assert "(h1's memory use is predicted at" in made.summary
    assert plan(seen, even()).moves == ()


def test_promised_memory_is_evened_out_whatever_is_used() -> None:
    domains = [domain(f"d{n}", "h1", 0.1, memory_bytes=GIB, memory_maximum_bytes=8 * GIB) for n in range(6)]
    seen = three(domains)
    policy = even(by="promised", deviation_ratio=0.1)
    assert counts(seen, plan(seen, policy), policy) == [2, 2, 2]
    unknown = replace(seen, domains=(replace(domains[0], memory_bytes=0, memory_maximum_bytes=None), *domains[1:]))
    assert plan(unknown, policy).moves == ()


def test_as_many_moves_are_made_as_it_takes() -> None:
    seen = group(sixteen("h1", 0.7), sixteen("h2", 0.1), *(domain(f"d{n}", "h1", 0.5) for n in range(20)))
    made = plan(seen, even(deviation_ratio=0.05))
    assert made.solved
    assert len(made.moves) > 5


def test_two_domains_change_places_where_no_single_move_evens_out() -> None:
    domains = [domain(name, "h1", 4.0) for name in ("a", "b")] + [domain(name, "h2", 2.0) for name in ("c", "d")]
    seen = group(sixteen("h1", 0.55), sixteen("h2", 0.3), *domains)
    made = plan(seen, even(deviation_ratio=0.05))
    assert sorted(where(made).items()) in ([("a", "h2"), ("c", "h1")], [("a", "h2"), ("d", "h1")])
    assert {move.problem for move in made.moves} == {Problem.IMBALANCE}
    assert made.solved
    assert carry_out(seen, Policy(), made)[1] == []


@pytest.mark.parametrize(("gain", "moves"), [(0.012, 0), (0.013, 2)])
def test_an_exchange_gains_enough_for_both_of_its_moves(gain: float, moves: int) -> None:
    """A move must gain 0.1 cores, 0.00625 of 16 CPUs, so an exchange must gain 0.0125."""
    domains = [domain(name, "h1", 2.0) for name in ("a", "b")]
    domains += [domain(name, "h2", 2.0 - 16 * gain) for name in ("c", "d")]
    seen = group(sixteen("h1", 0.3 + 2 * gain), sixteen("h2", 0.3), *domains)
    assert len(plan(seen, even(deviation_ratio=0.005, least_gain_ratio=0.1)).moves) == moves


def test_an_exchange_breaks_no_soft_rule() -> None:
    domains = [domain(name, "h1", 4.0) for name in ("a", "b")] + [domain(name, "h2", 2.0) for name in ("c", "d")]
    seen = group(sixteen("h1", 0.55), sixteen("h2", 0.3), *domains)
    soft = (
        Rule(name="near", kind="prefer", domains=("a", "c"), hosts=("h1",)),
        Rule(name="far", kind="prefer", domains=("d",), hosts=("h2",)),
    )
    made = plan(seen, replace(even(deviation_ratio=0.05), rules=soft))
    assert where(made) == {"b": "h2", "c": "h1"}


@pytest.mark.parametrize("by", ["cpu", "domains"])
def test_what_stays_uneven_is_named(by: str) -> None:
    held = [domain(f"d{n}", "h1", 2.0, placement=Placement(ignore=True)) for n in range(4)]
    made = plan(group(sixteen("h1", 0.7), sixteen("h2", 0.1), *held), even(by=by))
    assert (made.moves, made.attempts) == ((), ())
    what, figure = {"cpu": ("load", "0.300"), "domains": ("numbers of domains", "1.000")}[by]
    assert made.summary == (
        f"the group stays uneven: the standard deviation of its {what} is {figure}, above 0.15, and no move lowers it enough"
    )


def test_an_even_group_is_left_alone() -> None:
    for by in ("cpu", "memory", "promised", "domains", "vcpus"):
        seen = three([domain(f"d{n}", f"h{n % 3 + 1}", 0.1) for n in range(9)])
        made = plan(seen, even(by=by))
        assert (made.moves, made.solved) == ((), True)
        assert "nothing to do" in made.summary


def uneven(*loads: float, counted_from: float | None = None, consecutive: int = 3) -> Plan:
    """The plan for a host with these samples beside a calm one."""
    busy = host("h1", *loads, cpus=16, counted_from=counted_from)
    calm = host("h2", *(0.2 for _ in loads), cpus=16, counted_from=counted_from)
    policy = Policy(cpu=Trigger(threshold=0.8, consecutive=consecutive), imbalance=Imbalance(deviation_ratio=0.08))
    return plan(group(busy, calm, *(domain(f"d{n}", "h1", 1.0) for n in range(6))), policy)


def test_a_burst_of_fewer_than_n_samples_is_no_imbalance() -> None:
    assert uneven(0.2, 0.2, 0.6, 0.6).moves == ()
    assert uneven(0.2, 0.6, 0.6, 0.6).moves != ()


def test_hosts_are_evened_out_as_their_load_is_since_it_changed() -> None:
    (first, *_) = uneven(*[0.2] * 20, *[0.6] * 3).moves
    assert first.predicted.source.cpu_ratio == pytest.approx(0.6 - 1 / 16, abs=0.01)


def test_hosts_with_fewer_than_n_samples_are_not_evened_out() -> None:
    assert uneven(0.6, 0.6).moves == ()
    assert uneven(0.6, 0.6, consecutive=2).moves != ()


@pytest.mark.parametrize(("counted", "moves"), [(1, False), (2, False), (3, True)])
def test_after_a_move_hosts_are_evened_out_again_by_n_samples_since_then(counted: int, moves: bool) -> None:
    """By fewer it would be by samples from before the move, and too much would be moved."""
    made = uneven(*[0.6] * 20, counted_from=1000.0 - 10.0 * counted)
    assert bool(made.moves) is moves


def test_hosts_that_had_a_move_lately_do_not_keep_others_from_being_evened_out() -> None:
    young = [host(name, 0.9, 0.9, 0.3, cpus=16, counted_from=990.0) for name in ("h0", "h3")]
    seen = group(*young, sixteen("h1", 0.7), sixteen("h2", 0.1), *(domain(f"d{n}", "h1", 0.5) for n in range(20)))
    assert set(where(plan(seen, even(deviation_ratio=0.05))).values()) == {"h2"}
