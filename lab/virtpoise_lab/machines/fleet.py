"""Machines that stand side by side in one room."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from virtpoise_lab.machines.machine import Machine, Site
from virtpoise_lab.machines.room import Room


@contextmanager
def fleet(sites: Sequence[Site]) -> Iterator[dict[str, Machine]]:
    """The machines by name, booted; they end with the block. LabError when one does not boot."""
    machines: dict[str, Machine] = {}
    try:
        with Room() as room:
            for site in sites:
                machines[site.name] = Machine(room, site, sites)
            for machine in machines.values():
                machine.connect()
            for machine in machines.values():
                machine.wait()
            yield machines
    finally:
        for machine in machines.values():
            machine.ended()
