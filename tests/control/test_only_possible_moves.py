"""1,000 random groups in which a referee knows what libvirt would refuse: no move of a plan is impossible for a reason
that can be known, and what can be cleared by possible ones is.

Each is one decision of the balancer with its inventory. In every other group nothing is known before: all is found out
between the first plan and the one that is handed over.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import pytest

from builders import SAMPLE_TIMES, FakeClock
from equipment import Libvirt, stocked_group, unequal_group, with_referees_rules
from optimum import optimum
from random_groups import carry_out
from taking import Taking
from virtpoise_balancer.config import Measurement
from virtpoise_balancer.control.cycle import Cycle
from virtpoise_balancer.control.decide import Situation
from virtpoise_balancer.execute.hosts import Hosts
from virtpoise_balancer.execute.inventory import Inventory
from virtpoise_balancer.knowledge.records import Memory
from virtpoise_balancer.knowledge.store import Store
from virtpoise_balancer.model import DomainState, Plan, Policy, Snapshot
from virtpoise_balancer.plan import plan
from virtpoise_balancer.threads import SystemThreads, Thread
from watching import Watching

GROUPS = 1000
NOW = 1e9
TOGETHER = 50
# Of other groups the solver needs minutes.
SOLVED = range(0, 500, 20)
STOCKED = range(10, GROUPS, 20)


class AtOnce(SystemThreads):
    """Does the work before it returns."""

    def start(self, work: Callable[[], object], name: str, *, daemon: bool = True) -> Thread:
        work()
        return cast(Thread, None)


@dataclass
class Found:
    """``impossible``: moves that libvirt would refuse for a reason that can be known."""

    plan: Plan
    impossible: list[str]
    cleared: bool


def found_of(snapshot: Snapshot, policy: Policy, libvirt: Libvirt, *, known: bool) -> Found:
    clock = FakeClock(NOW)
    inventory = Inventory(lambda: cast(Hosts, libvirt), clock=clock, threads=AtOnce())
    inventory.facts([host.name for host in snapshot.hosts])
    if known:
        running: dict[str, list[str]] = {host.name: [] for host in snapshot.hosts}
        for domain in snapshot.domains:
            if domain.state is DomainState.RUNNING:
                running[domain.host].append(domain.uuid)
        for _ in range(2):  # what was found at the last host is asked of the first
            inventory.keep_up(running)
            clock.at += 60
    cycle = Cycle(
        observer=Watching(snapshot),
        store=cast(Store, None),
        executor=Taking(),
        policy=policy,
        measurement=Measurement(),
        clock=clock,
        mode="automatic",
        possible=inventory,
    )
    situation = Situation(
        now=NOW, seen=snapshot, memory=Memory(facts=inventory.facts()), policy=policy, times=SAMPLE_TIMES
    )
    _, decision = cycle._decide_on_possible(situation)
    made = decision.plan
    assert made is not None
    impossible = libvirt.refused(made.moves)
    world, _ = carry_out(snapshot, policy, made)
    cleared = world.cleared(sorted({overload.host for overload in made.overloaded}))
    return Found(made, impossible, cleared)


def drawn(seed: int) -> tuple[Snapshot, Policy, Libvirt]:
    """Half of the groups have huge pages and disks to be copied."""
    return stocked_group(seed) if seed // 2 % 2 else unequal_group(seed)


def found_in(seed: int) -> Found:
    return found_of(*drawn(seed), known=seed % 2 == 0)


@pytest.mark.parametrize("first", range(0, GROUPS, TOGETHER))
def test_no_planned_move_is_impossible_for_a_reason_that_can_be_known(first: int) -> None:
    found = {seed: found_in(seed) for seed in range(first, first + TOGETHER)}
    assert {seed: one.impossible for seed, one in found.items() if one.impossible} == {}
    assert sum(bool(one.plan.moves) for one in found.values()) > TOGETHER / 2


def test_what_can_be_cleared_by_possible_moves_is() -> None:
    """Groups that the plan does not clear are solved exactly.

    What it misses it also misses where the referee's refusals are placement rules: the facts cost nothing. Of the
    groups from 140 to 239 the plan clears 39 of the 43 that can be cleared.
    """
    found = {seed: found_in(seed) for seed in SOLVED if all_answer(seed)}
    cleared = sum(one.cleared for one in found.values())
    missed = [seed for seed, one in found.items() if not one.cleared and clearable(seed, one)]
    assert cleared > len(found) / 3
    assert cleared >= 0.9 * (cleared + len(missed))
    assert [seed for seed in missed if cleared_by_rules(seed)] == []


def test_what_can_be_cleared_with_huge_pages_and_copied_disks_is() -> None:
    """Against the optimum, in which the arrivals of a host share its pages and its room."""
    found = {seed: found_in(seed) for seed in STOCKED if all_answer(seed)}
    cleared = sum(one.cleared for one in found.values())
    missed = [seed for seed, one in found.items() if not one.cleared and clearable(seed, one)]
    assert cleared > len(found) / 5
    assert cleared >= 0.9 * (cleared + len(missed))


def cleared_by_rules(seed: int) -> bool:
    snapshot, policy, libvirt = unequal_group(seed)
    made = plan(snapshot, with_referees_rules(policy, snapshot, libvirt))
    world, _ = carry_out(snapshot, policy, made)
    return world.cleared(sorted({overload.host for overload in made.overloaded}))


def all_answer(seed: int) -> bool:
    _, _, libvirt = drawn(seed)
    return all(host.answers for host in libvirt.hosts.values())


def clearable(seed: int, one: Found) -> bool:
    """Whether some sequence of possible moves clears all overloads."""
    snapshot, policy, libvirt = drawn(seed)
    ruled, supplies = with_referees_rules(policy, snapshot, libvirt), libvirt.supplies()
    overloaded = sorted({overload.host for overload in one.plan.overloaded})
    best = optimum(snapshot, ruled, overloaded, supplies=supplies)
    return best is not None and optimum(snapshot, ruled, overloaded, waves=3, supplies=supplies) is not None
