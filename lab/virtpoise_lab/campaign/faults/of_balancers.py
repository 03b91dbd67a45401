"""Faults of what balancers work with: their processes, their lock, their store and their clock."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from virtpoise_lab.campaign.faults.parts import Begin, Met, lasting
from virtpoise_lab.campaign.run import Run

CLOCK_STEPS = (-120.0, -15.0, 15.0, 120.0)


def _store(fault: str) -> Begin:
    def set_to(what: str) -> Callable[[Run, Met], None]:
        def do(run: Run, _met: Met) -> None:
            run.note(f"store: {what or 'well'}")
            run.disk.fault = what

        return do

    return lasting(set_to(fault), set_to(""))


def _step_clock(run: Run, _met: Met, seconds: float) -> None:
    ahead = run.random.choice(CLOCK_STEPS)

    def step(by: float) -> None:
        run.note(f"the balancer's clock is stepped by {by:+g} s")
        for balancer in run.balancers:
            balancer.process.ahead_seconds += by

    step(ahead)
    run.kernel.after(seconds, partial(step, -ahead))


def _kill(run: Run, _met: Met, seconds: float) -> None:
    run.kernel.after(min(seconds, 15.0), run.start_balancer)
    run.kill_balancer()


def _second(run: Run, _met: Met, _seconds: float) -> None:
    run.start_balancer()


def _hand_over(run: Run, _met: Met, seconds: float) -> None:
    """A second balancer waits, and takes over when the one that acts is killed."""
    run.start_balancer()
    run.kernel.after(min(seconds, 15.0), run.kill_balancer)
    run.faulty_until(run.kernel.at + 15.0)


def _lock_removed(run: Run, _met: Met, _seconds: float) -> None:
    """Someone removes the lock file under the balancer that acts, and a second one finds none."""
    run.note("the lock file is removed")
    run.lock_file.unlink(missing_ok=True)
    run.start_balancer()


OF_BALANCERS: dict[str, Begin] = {
    "store-locked": _store("locked"),
    "store-full": _store("full"),
    "store-gone": _store("gone"),
    "store-in-doubt": _store("in doubt"),
    "clock-stepped": _step_clock,
    "balancer-killed": _kill,
    "second-balancer": _second,
    "balancer-handed-over": _hand_over,
    "balancer-lock-removed": _lock_removed,
}
