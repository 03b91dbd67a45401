"""Whether plans are carried out now: the cycle that acts on it and the page that shows it agree."""

from __future__ import annotations

import pytest

from virtpoise_balancer.analyse.brake import Brake, BrakeCause
from virtpoise_balancer.control.acting import standing
from virtpoise_balancer.knowledge.records import Memory, Overrides, OverrideValue, StandingOrders
from virtpoise_balancer.model import Mode, Policy
from virtpoise_balancer.web.state import Published, State

MODES: tuple[Mode, ...] = ("recommend", "automatic")
BRAKE = Brake(at=5.0, cause=BrakeCause.MIGRATIONS, why="3 domains failed")
NO_NAMES = "libvirt.pattern: expected, for mode automatic, patterns"


@pytest.mark.parametrize("only_recommends", [None, NO_NAMES], ids=["named-hosts", "no-named-hosts"])
@pytest.mark.parametrize("brake", [None, BRAKE], ids=["no-brake", "brake"])
@pytest.mark.parametrize("ordered", [None, *MODES])
@pytest.mark.parametrize("configured", MODES)
def test_the_mode_that_is_shown_is_the_one_in_force(
    configured: Mode, ordered: Mode | None, brake: Brake | None, only_recommends: str | None
) -> None:
    setting = OverrideValue(value=ordered, instead_of=configured, at=1.0, who="alice") if ordered else None
    overrides = Overrides(mode=setting)
    memory = Memory(orders=StandingOrders(overrides=overrides), brake=brake)
    acts = standing(memory, Policy(), configured, 10.0, only_recommends=only_recommends)
    state = State(
        mode=configured,
        only_recommends=only_recommends,
        leader=True,
        policy=Policy(),
        interval_seconds=10,
        brake=brake,
    )
    shown = Published(state, overrides=lambda: overrides).mode
    assert shown == acts.mode
    assert acts.acts is (shown == "automatic")
