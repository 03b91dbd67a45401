"""What every fault is made of: whom it meets, and how it begins and ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from virtpoise_lab.campaign.run import Run
from virtpoise_lab.campaign.world import WE

# What lasts longer than any length that a seed chooses.
LONG_SECONDS = 90.0
# How long a slow host's answer takes, in seconds. Each is given up after 30 s.
SLOW = (3.0, 10.0, 20.0)


@dataclass(frozen=True)
class Met:
    """Whom a fault meets."""

    uuid: str
    source: str
    destination: str
    bystander: str

    def end(self, which: str) -> str:
        """An end of a way: one of these hosts by its part, or the balancer."""
        return WE if which == WE else str(getattr(self, which))


Begin = Callable[[Run, Met, float], None]


def lasting(begin: Callable[[Run, Met], None], end: Callable[[Run, Met], None]) -> Begin:
    """A fault that begins, and ends as many seconds later as it is to last."""

    def both(run: Run, met: Met, seconds: float) -> None:
        begin(run, met)
        run.kernel.after(seconds, partial(end, run, met))

    return both


def switched(part: str, name: str, value: object, healed: object) -> Begin:
    """A fault that is one value of a part of the run."""

    def set_to(what: object) -> Callable[[Run, Met], None]:
        def do(run: Run, _met: Met) -> None:
            run.note(f"{part}: {name} = {what}")
            setattr(getattr(run, part), name, what)

        return do

    return lasting(set_to(value), set_to(healed))


def of_host(which: str, name: str, value: Callable[[Run], object]) -> Begin:
    """A fault that is one value of a host, which is as before when it ends. ``value``: what it becomes."""

    def begin(run: Run, met: Met, seconds: float) -> None:
        machine, wrong = run.world.machines[met.end(which)], value(run)
        well = type(machine).__dataclass_fields__[name].default
        run.note(f"{machine.name}: {name} = {wrong}")
        setattr(machine, name, wrong)

        def end() -> None:
            run.note(f"{machine.name}: {name} = {well}")
            setattr(machine, name, well)

        run.kernel.after(seconds, end)

    return begin
