"""What a move must gain at least is no share of a large host: half a core is worth a migration anywhere."""

from __future__ import annotations

import pytest

from builders import GIB, domain, group, host
from virtpoise_balancer.model import Domain, Imbalance, Policy, Reason, Snapshot
from virtpoise_balancer.plan import plan


def beside_two(cpus: int, load: float, others: float, *domains: Domain) -> Snapshot:
    """h1 with the domains, beside h2 and h3 that are alike."""
    loads = {"h1": load, "h2": others, "h3": others}
    room = {"memory_bytes": 1024 * GIB, "memory_used_bytes": 256 * GIB}
    return group(*(host(name, one, one, one, cpus=cpus, **room) for name, one in loads.items()), *domains)


def small(count: int, cores: float) -> list[Domain]:
    return [domain(f"d{number:03}", "h1", cores) for number in range(count)]


def test_small_domains_of_a_large_host_relieve_it_as_far_as_others_have_room() -> None:
    made = plan(beside_two(64, 0.9, 0.7, *small(112, 0.5)), Policy())
    assert len(made.moves) == 16
    assert made.moves[-1].predicted.source.cpu_ratio < 0.8
    assert not any(one.reason is Reason.LEAST_GAIN for one in made.refusals)


@pytest.mark.parametrize(("cpus", "count", "cores"), [(128, 400, 0.28), (32, 200, 0.14)])
def test_so_they_do_whatever_the_number_of_cpus(cpus: int, count: int, cores: float) -> None:
    made = plan(beside_two(cpus, 0.9, 0.7, *small(count, cores)), Policy())
    assert len(made.moves) * cores / cpus > 0.12


def test_so_they_do_beside_one_that_fits_nowhere() -> None:
    made = plan(beside_two(64, 0.9, 0.7, domain("big", "h1", 45.0), *small(20, 0.5)), Policy())
    assert len(made.moves) == 16


def test_an_idle_domain_of_a_large_host_stays_and_the_sentence_says_why() -> None:
    made = plan(beside_two(64, 0.9, 0.7, domain("big", "h1", 50.0), *small(20, 0.05)), Policy())
    assert made.moves == ()
    assert made.summary == (
        "h1 is overloaded (CPU load 90%, 3 consecutive samples) and each domain that can be moved would relieve it too "
        "little"
    )
    idle = {one.domain: one for one in made.refusals if one.reason is Reason.LEAST_GAIN}["d000"]
    assert idle.detail == {"gain_ratio": pytest.approx(0.05 / 64, rel=0.1), "least_gain_ratio": 0.1 / 64}


def test_a_large_group_is_evened_out_as_a_small_one() -> None:
    """In a group of twenty hosts no single move lowers the deviation of all by half a point."""
    busy = [host(f"a{n}", 0.7, 0.7, 0.7, cpus=16, memory_bytes=64 * GIB, memory_used_bytes=GIB) for n in range(10)]
    calm = [host(f"b{n}", 0.3, 0.3, 0.3, cpus=16, memory_bytes=64 * GIB, memory_used_bytes=GIB) for n in range(10)]
    domains = [domain(f"d{n}-{i}", f"a{n}", 0.35) for n in range(10) for i in range(32)]
    made = plan(group(*busy, *calm, *domains), Policy(imbalance=Imbalance(deviation_ratio=0.1)))
    assert len(made.moves) >= 20
