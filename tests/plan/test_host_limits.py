"""Thresholds of single hosts, and what is left free on them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from builders import GIB, domain, group, host, where
from virtpoise_balancer.config import parse_config
from virtpoise_balancer.errors import BadInput
from virtpoise_balancer.model import Domain, Host, HostLimits, Policy, Reason, Snapshot
from virtpoise_balancer.plan import plan


def sixteen(name: str, load: float, rack: str, **more: object) -> Host:
    values = {"cpus": 16, "memory_bytes": 64 * GIB, "memory_used_bytes": 16 * GIB, "labels": {"rack": rack}} | more
    return host(name, load, load, load, **values)  # type: ignore[arg-type]


def racks(h1: float, h2: float, h3: float, *domains: Domain, **more: object) -> Snapshot:
    return group(sixteen("h1", h1, "a", **more), sixteen("h2", h2, "b"), sixteen("h3", h3, "b"), *domains)


def some(count: int = 4, cores: float = 1.6, **more: object) -> list[Domain]:
    return [domain(f"d{number}", "h1", cores, **more) for number in range(count)]


def limits(*hosts: str, **values: float) -> Policy:
    return Policy(hosts=(HostLimits(hosts=hosts, **values),))  # type: ignore[arg-type]


@pytest.mark.parametrize("pattern", ["h1", "h[1]", "rack=a"])
def test_a_host_is_overloaded_by_its_own_threshold(pattern: str) -> None:
    seen = racks(0.65, 0.2, 0.2, *some())
    assert plan(seen, Policy()).moves == ()
    made = plan(seen, limits(pattern, cpu=0.6))
    assert where(made) == {"d0": "h2", "d1": "h3"}
    assert made.solved
    assert made.moves[-1].predicted.source.cpu_ratio_upper <= 0.55


def test_another_keeps_the_common_one_and_so_does_what_is_not_said() -> None:
    assert plan(racks(0.65, 0.2, 0.2, *some()), limits("rack=b", cpu=0.6)).moves == ()
    assert where(plan(racks(0.9, 0.2, 0.2, *some()), limits("h1", memory=0.5)))


def test_a_higher_threshold_lets_a_host_be() -> None:
    assert plan(racks(0.85, 0.2, 0.2, *some()), limits("h1", cpu=0.95)).moves == ()


def test_a_destination_stays_below_its_own_threshold() -> None:
    seen = racks(0.9, 0.4, 0.45, *some(1, 3.2))
    assert where(plan(seen, Policy())) == {"d0": "h2"}
    assert where(plan(seen, limits("h2", cpu=0.6))) == {"d0": "h3"}
    made = plan(seen, limits("h[23]", cpu=0.6))
    (one,) = [refusal for refusal in made.refusals if refusal.domain == "d0"]
    assert (one.reason, one.detail["threshold"]) == (Reason.DESTINATION_CPU, 0.6)


def test_memory_and_uplinks_have_their_own_as_well() -> None:
    seen = racks(0.3, 0.2, 0.2, *some(memory_bytes=4 * GIB), memory_used_bytes=40 * GIB)
    seen = replace(seen, hosts=(replace(seen.hosts[0], memory_ratio_window=(0.625,) * 3), *seen.hosts[1:]))
    assert plan(seen, Policy()).moves == ()
    assert where(plan(seen, limits("h1", memory=0.6))) == {"d0": "h2", "d1": "h3"}
    busy = racks(0.3, 0.2, 0.2, *some(tx_ratio=0.15), tx_ratio=0.7, tx_ratio_window=(0.7,) * 3)
    assert where(plan(busy, limits("h1", network=0.65)))


def test_the_first_entry_that_fits_counts() -> None:
    both = (HostLimits(hosts=("h1",), cpu=0.9), HostLimits(hosts=("rack=a",), cpu=0.5))
    assert plan(racks(0.65, 0.2, 0.2, *some()), Policy(hosts=both)).moves == ()


def test_moves_leave_cores_free() -> None:
    seen = racks(0.9, 0.4, 0.45, *some(1, 3.2))
    assert where(plan(seen, limits("h2", free_cores=6.0))) == {"d0": "h3"}
    assert where(plan(seen, limits("h2", free_cores=4.0))) == {"d0": "h2"}


def test_moves_leave_memory_free() -> None:
    seen = racks(0.9, 0.2, 0.3, *some(1, 3.2, memory_bytes=8 * GIB))
    assert where(plan(seen, Policy())) == {"d0": "h2"}
    assert where(plan(seen, limits("h2", free_memory_bytes=44 * GIB))) == {"d0": "h3"}


def test_what_is_to_be_left_free_is_no_problem_of_a_host() -> None:
    seen = racks(0.7, 0.2, 0.2, *some())
    made = plan(seen, limits("*", free_cores=16.0, free_memory_bytes=64 * GIB))
    assert (made.moves, made.overloaded, made.solved) == ((), (), True)
    full = plan(racks(0.9, 0.2, 0.2, *some()), limits("h[23]", free_cores=100.0))
    assert full.moves == ()
    assert not full.solved


def test_thesis_knows_none() -> None:
    seen = racks(0.65, 0.2, 0.2, *some())
    assert plan(seen, replace(limits("h1", cpu=0.6), strategy="thesis")) == plan(seen, Policy(strategy="thesis"))


@pytest.mark.parametrize(
    "entry", ["{cpu: 0.7}", "{hosts: [], cpu: 0.7}", "{hosts: [a], cpu: 1.2}", "{hosts: [a], free_cores: -1}"]
)
def test_a_wrong_entry_is_one_line_that_names_the_field(entry: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse_config(f"policy: {{hosts: [{entry}]}}", "the test")
    assert "policy.hosts.0" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_entry_that_fits_no_host_is_noted() -> None:
    made = plan(racks(0.3, 0.2, 0.2, *some()), limits("rack=z", cpu=0.6))
    assert made.notes == ("the entry of policy.hosts for rack=z fits no host",)
