"""Demand: laws that hold for any readings, and what was measured on real domains (docs/scoring.md)."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from virtpoise_balancer.analyse.demand import Demands, busy_cpus
from virtpoise_balancer.analyse.demand import estimate as estimate_hosts
from virtpoise_balancer.analyse.prediction import predict
from virtpoise_balancer.model import Domain


def domain(
    name: str,
    run: float,
    delay: float | None,
    *,
    vcpus: int = 1,
    past: float | None = None,
    past_delay: float | None = None,
) -> Domain:
    return Domain(
        name=name,
        uuid=name,
        host="h1",
        vcpus=vcpus,
        cpu_cores=run,
        cpu_delay_cores=delay,
        cpu_cores_unsaturated=past,
        cpu_delay_cores_unsaturated=past_delay,
    )


def estimate(domains: list[Domain], *, cpus: int, load: float, saturated: bool) -> Demands:
    """Of one host."""
    return estimate_hosts([domains], cpus=cpus, load=np.array([load]), saturated=np.array([saturated]))


@st.composite
def readings(draw: st.DrawFn) -> list[Domain]:
    domains = []
    for i in range(draw(st.integers(1, 6))):
        vcpus = draw(st.integers(1, 4))
        domains.append(
            domain(
                f"vm{i}",
                draw(st.floats(0, vcpus)),
                draw(st.none() | st.floats(0, vcpus)),
                vcpus=vcpus,
                past=draw(st.none() | st.floats(0, vcpus)),
                past_delay=draw(st.floats(0, vcpus)),
            )
        )
    return domains


@given(readings(), st.integers(1, 8), st.floats(0, 1), st.booleans())
def test_demand_lies_between_what_is_run_and_what_is_run_or_waited_for(
    domains: list[Domain], cpus: int, load: float, saturated: bool
) -> None:
    demands = estimate(domains, cpus=cpus, load=load, saturated=saturated)
    for i, one in enumerate(domains):
        assert one.cpu_cores <= demands.lower[i] + 1e-9
        assert demands.lower[i] <= demands.cores[i] + 1e-9
        assert demands.cores[i] <= demands.upper[i] + 1e-9
        wanted = one.vcpus if one.cpu_delay_cores is None else min(one.cpu_cores + one.cpu_delay_cores, one.vcpus)
        assert demands.upper[i] <= max(one.cpu_cores, wanted) + 1e-9
        assert 0 <= demands.on_off[i] <= 1
        assert 0 <= demands.runnable[i] <= 1


@given(st.lists(st.tuples(readings(), st.floats(0, 1), st.booleans()), min_size=1, max_size=4), st.integers(1, 8))
def test_hosts_together_are_estimated_as_each_alone(hosts: list[tuple[list[Domain], float, bool]], cpus: int) -> None:
    loads, saturated = np.array([load for _, load, _ in hosts]), np.array([full for *_, full in hosts])
    together = estimate_hosts([domains for domains, *_ in hosts], cpus=cpus, load=loads, saturated=saturated)
    alone = [estimate(domains, cpus=cpus, load=load, saturated=full).table for domains, load, full in hosts]
    assert together.table == pytest.approx(np.concatenate(alone), abs=1e-9)


@given(readings(), st.integers(1, 8), st.floats(0, 1), st.booleans())
def test_where_no_delay_is_known_all_of_the_interval_is_doubt(
    domains: list[Domain], cpus: int, load: float, saturated: bool
) -> None:
    """Neither kind of guest is assumed, and a host that is not saturated gives each domain what it wants."""
    unknown = [replace(one, cpu_delay_cores=None, cpu_delay_cores_unsaturated=None) for one in domains]
    demands = estimate(unknown, cpus=cpus, load=load, saturated=saturated)
    assert not demands.on_off.any()
    assert demands.sums.doubt == pytest.approx((demands.upper - demands.lower) / 2)
    if not saturated:
        assert demands.upper == pytest.approx(demands.used)


def test_a_domain_held_back_by_its_fair_share_may_want_all_its_vcpus() -> None:
    """One that gets far less for each vCPU than another on its host leaves CPU time to it: it has what it wants."""
    held, calm = domain("vm1", 1.8, None, vcpus=4), domain("vm2", 0.1, None, vcpus=4)
    demands = estimate([held, calm], cpus=2, load=1.0, saturated=True)
    assert (demands.lower[0], demands.upper[0]) == (1.8, 4.0)
    assert demands.lower[1] == demands.upper[1] == 0.1


def test_a_known_past_narrows_an_unknown_delay() -> None:
    held = domain("vm1", 0.9, None, vcpus=2)
    (without,) = estimate([held], cpus=1, load=1.0, saturated=True).sums.doubt
    (with_past,) = estimate([replace(held, cpu_cores_unsaturated=1.2)], cpus=1, load=1.0, saturated=True).sums.doubt
    assert 0 < with_past < without


def test_an_unknown_delay_widens_the_prediction_for_a_saturated_source() -> None:
    """By more than any delay that could have been measured with the same load."""
    cpus, load = 4, 0.97

    def spread(delay: float | None) -> float:
        domains = [domain(f"vm{number}", 0.95, delay, vcpus=2) for number in range(4)]
        demands = estimate(domains, cpus=cpus, load=load, saturated=True)
        there = np.array([[0.0, 1.0, 1.0, 1.0]])
        return float(predict(cpus, 0.0, demands, there).spread[0])

    assert spread(None) > max(spread(delay / 10) for delay in range(11))


@given(st.floats(0, 4), st.floats(0, 1), st.booleans())
def test_a_domain_that_never_waits_wants_what_it_gets(run: float, load: float, saturated: bool) -> None:
    demands = estimate([domain("vm1", run, 0.0, vcpus=4)], cpus=4, load=load, saturated=saturated)
    assert demands.lower[0] == demands.cores[0] == demands.upper[0] == run


def test_a_vcpu_that_is_always_runnable_may_want_all_its_time() -> None:
    demands = estimate([domain("vm1", 0.35, 0.65), domain("vm2", 0.35, 0.65)], cpus=1, load=1.0, saturated=True)
    assert demands.upper[0] == pytest.approx(1.0)
    assert 0.35 < demands.cores[0] < 1.0


def test_history_on_an_unsaturated_host_shows_what_a_starved_domain_wants() -> None:
    starved = domain("vm1", 0.35, 0.65, past=0.5, past_delay=0.01)
    demands = estimate([starved, domain("vm2", 0.65, 0.35)], cpus=1, load=1.0, saturated=True)
    assert demands.cores[0] == pytest.approx(0.5)


def test_a_domain_that_outgrew_its_history_is_not_held_to_it() -> None:
    grown = domain("vm1", 0.5, 0.5, past=0.1, past_delay=0.0)
    demands = estimate([grown, domain("vm2", 0.5, 0.5)], cpus=1, load=1.0, saturated=True)
    assert demands.upper[0] == pytest.approx(1.0)


def brute_force(cpus: int, probabilities: list[float]) -> float:
    total = 0.0
    for states in itertools.product((0, 1), repeat=len(probabilities)):
        chance = math.prod(p if on else 1 - p for p, on in zip(probabilities, states, strict=True))
        total += chance * min(cpus, sum(states))
    return total


@given(
    st.lists(st.tuples(st.floats(0, 1), st.integers(1, 3), st.booleans()), min_size=1, max_size=4), st.integers(1, 6)
)
def test_busy_cpus_is_the_expectation_over_all_states(domains: list[tuple[float, int, bool]], cpus: int) -> None:
    probability = np.array([p for p, _, _ in domains])
    vcpus = np.array([float(n) for _, n, _ in domains])
    there = np.array([[1.0] * len(domains), [float(present) for *_, present in domains]])
    busy = busy_cpus(cpus, probability, vcpus, there)
    assert busy[0] == pytest.approx(brute_force(cpus, [p for p, n, _ in domains for _ in range(n)]), abs=5e-4)
    left = [p for p, n, present in domains if present for _ in range(n)]
    assert busy[1] == pytest.approx(brute_force(cpus, left), abs=5e-4)


# Measured on real one-vCPU domains on a host of one CPU: cores of the process, waited for, and the host's load.
ON_OFF = ([domain("a", 0.409, 0.440), domain("b", 0.326, 0.397), domain("c", 0.281, 0.368)], 0.981)
CATCHING_UP = ([domain("a", 0.363, 0.485), domain("b", 0.339, 0.472), domain("c", 0.244, 0.410)], 0.945)


def test_the_two_kinds_of_guests_are_told_apart_by_how_busy_their_host_is() -> None:
    domains, load = ON_OFF
    assert estimate(domains, cpus=1, load=load, saturated=True).on_off == pytest.approx(0.956, abs=0.001)
    domains, load = CATCHING_UP
    assert estimate(domains, cpus=1, load=load, saturated=True).on_off == pytest.approx(0.044, abs=0.001)


def test_what_the_host_uses_itself_makes_nobody_lose_time() -> None:
    # Catching up, they leave the host less idle than on-off ones would; with much of the host's own use the two would
    # look alike.
    domains, load = CATCHING_UP
    for own in (0.0, 0.05, 0.1):
        assert estimate(domains, cpus=1, load=min(load + own, 0.98), saturated=True).on_off == pytest.approx(
            0.044, abs=0.001
        )


def test_history_shows_the_kind_where_the_host_does_not() -> None:
    # A full host: nothing idle is left to tell by. vm1 was as runnable when it had less company, vm2 ran as much and
    # never waited.
    steady = domain("vm1", 0.4, 0.4, past=0.7, past_delay=0.1)
    owed = domain("vm2", 0.3, 0.7, past=0.3, past_delay=0.0)
    unknown = domain("vm3", 0.3, 0.7)
    demands = estimate([steady, owed, unknown], cpus=1, load=1.0, saturated=True)
    # One fits 51 times as well as the other, each way: all alike is 1 + 1, each by itself 26 * 26 / 51.
    each = 26 * 26 / 51
    assert demands.on_off[0] == pytest.approx((1 + each * 51 / 52) / (2 + each))
    assert demands.on_off[1] == pytest.approx((1 + each * 1 / 52) / (2 + each))
    assert demands.on_off[2] == pytest.approx(0.5)


def test_the_histories_of_the_others_tell_the_kind_of_one_that_has_none() -> None:
    on_off = domain("vm1", 0.4, 0.4, past=0.7, past_delay=0.1)
    catching_up = domain("vm1", 0.4, 0.6, past=0.4, past_delay=0.0)
    unknown = domain("vm2", 0.6, 0.4)
    # The other fits one kind 51 times as well: all of it 51, each by itself (51 + 1) / 2, all of the other kind 1.
    for other, kind in ((on_off, (51 + 26 / 2) / 78), (catching_up, (1 + 26 / 2) / 78)):
        demands = estimate([other, unknown], cpus=1, load=1.0, saturated=True)
        assert demands.on_off[1] == pytest.approx(kind)


def test_how_busy_the_host_was_before_counts_as_well() -> None:
    # vm1 is as it was; vm2 wants more by now, so its own history tells nothing.
    def estimated(past_delay: float) -> float:
        vm1 = domain("vm1", 0.27, 0.08, past=0.27, past_delay=0.08)
        vm2 = domain("vm2", 0.27, 0.08, past=0.15, past_delay=past_delay)
        return float(estimate([vm1, vm2], cpus=1, load=0.54, saturated=False).on_off[0])

    told = [estimated(past_delay) for past_delay in (0.0, 0.03, 0.06)]
    assert told[0] > told[1] > told[2]
