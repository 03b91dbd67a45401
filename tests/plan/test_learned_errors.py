"""What earlier predictions were off by: single errors decide nothing, and what decides is named."""

from __future__ import annotations

from dataclasses import replace

import pytest

from builders import GIB, domain, group, host, where
from virtpoise_balancer.explain import wording
from virtpoise_balancer.model import Policy, Reason, Residual, Role, Snapshot
from virtpoise_balancer.plan import plan

SPREAD = 0.03


def errors(*ratios: float) -> tuple[Residual, ...]:
    return tuple(
        Residual(role=role, saturated=False, error_ratio=ratio, spread_ratio=SPREAD)
        for ratio in ratios
        for role in Role
    )


def small(count: int) -> list[float]:
    return [0.02 * (-1) ** number for number in range(count)]


def overloaded(others: float = 0.2, *learned: Residual) -> Snapshot:
    """h1 at 85 % with eight domains of a tenth each; two of them must go."""
    loads = {"h1": 0.85, "h2": others, "h3": others}
    room = {"cpus": 16, "memory_bytes": 64 * GIB, "memory_used_bytes": 16 * GIB}
    return replace(
        group(
            *(host(name, one, one, one, **room) for name, one in loads.items()),
            *(domain(f"w{number}", "h1", 1.3) for number in range(8)),
        ),
        residuals=learned,
    )


@pytest.mark.parametrize(
    "learned",
    [
        [0.4, *small(5)],
        [*small(11), 0.4],
        [0.4, *small(30), 0.4],
        [0.4, *small(38), 0.4],
        [0.9, *small(18)],
    ],
    ids=["one of 6", "one of 12", "two of 32", "two of 40", "one of 19"],
)
def test_single_errors_far_from_all_others_change_nothing(learned: list[float]) -> None:
    alone = where(plan(overloaded(), Policy()))
    assert len(alone) == 2
    without = [error for error in learned if error < 0.1]
    assert where(plan(overloaded(0.2, *errors(*learned)), Policy())) == where(
        plan(overloaded(0.2, *errors(*without)), Policy())
    )


def test_no_error_makes_an_idle_host_refuse() -> None:
    for learned in ([0.95], [0.9, 0.95, 0.9], [0.9, 0.8] * 20):
        assert plan(overloaded(0.05, *errors(*learned)), Policy()).moves


def test_errors_that_are_usual_count_and_are_named() -> None:
    made = plan(overloaded(0.2, *errors(*[0.09, 0.08, 0.1] * 10)), Policy())
    assert len(made.moves) > 2
    assert all(
        "its CPU load comes to at most" in move.why and "since earlier predictions were too low" in move.why
        for move in made.moves
    )
    assert not any("earlier predictions" in move.why for move in plan(overloaded(), Policy()).moves)


def test_a_host_that_refuses_because_of_them_says_so() -> None:
    made = plan(overloaded(0.65, *errors(*[0.12, 0.1] * 15)), Policy())
    (one, *_) = [refusal for refusal in made.refusals if refusal.reason is Reason.DESTINATION_CPU]
    assert one.detail["learned_ratio"] == pytest.approx(0.09)
    assert "9% of it since earlier predictions were too low" in wording.refusal(one)
    assert "since earlier" not in "".join(map(wording.refusal, plan(overloaded(0.75), Policy()).refusals))
