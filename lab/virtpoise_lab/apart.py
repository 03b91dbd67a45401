"""Machines that share nothing but a switch: networks of their own, and ways between them that can be cut.

A network ends with the last process in it, and with this one. Only root can make it.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_NEW_NETWORK = 0x40000000  # CLONE_NEWNET: the standard library names it from Python 3.12 on
_HERE = Path("/proc/thread-self/ns/net")
_NOBODY = "02:76:70:00:ff:ff"
_libc = ctypes.CDLL(None, use_errno=True)


def open_network() -> int:
    """A descriptor of the network that the calling thread is in."""
    return os.open(_HERE, os.O_RDONLY)


def enter(network: int) -> None:
    """Move the calling thread, and all that it starts from then on, into a network."""
    _checked(_libc.setns(network, _NEW_NETWORK))


def enter_new() -> None:
    """The same, into a new one that has loopback alone."""
    _checked(_libc.unshare(_NEW_NETWORK))
    _ip("link set lo up")


@dataclass(frozen=True, slots=True)
class Machine:
    """A network namespace. ``address``: on the switch."""

    address: str
    network: int

    @contextmanager
    def inside(self) -> Iterator[None]:
        """The calling thread, and all that it starts, are on the machine."""
        outside = open_network()
        enter(self.network)
        try:
            yield
        finally:
            enter(outside)
            os.close(outside)


class Switch:
    """Machines on one network. ``close`` gives them up."""

    def __init__(self, count: int) -> None:
        self._switch = _new_network()
        with Machine("", self._switch).inside():
            _ip("link add switch type bridge", "link set switch up")
        self.machines = [self._plugged_in(number) for number in range(1, count + 1)]

    def _plugged_in(self, number: int) -> Machine:
        made = Machine(f"10.78.0.{number}", _new_network())
        with made.inside():
            switch = f"/proc/{os.getpid()}/fd/{self._switch}"
            _ip(
                f"link add eth0 type veth peer name port{number} netns {switch}",
                f"addr add {made.address}/24 dev eth0",
                "link set eth0 up",
            )
        with Machine("", self._switch).inside():
            _ip(f"link set port{number} master switch", f"link set port{number} up")
        return made

    def cut(self, a: Machine, b: Machine) -> None:
        """Each takes the other for a machine that is not there: connections stay open, and nothing arrives."""
        for here, there in ((a, b), (b, a)):
            with here.inside():
                _ip(f"neigh replace {there.address} lladdr {_NOBODY} nud permanent dev eth0")

    def mend(self, a: Machine, b: Machine) -> None:
        for here, there in ((a, b), (b, a)):
            with here.inside():
                _ip(f"neigh del {there.address} dev eth0")

    def close(self) -> None:
        for network in (self._switch, *(machine.network for machine in self.machines)):
            os.close(network)


def _new_network() -> int:
    """A descriptor of a new network. The calling thread stays where it is."""
    outside = open_network()
    enter_new()
    try:
        return open_network()
    finally:
        enter(outside)
        os.close(outside)


def _ip(*commands: str) -> None:
    subprocess.run(["ip", "-batch", "-"], input="\n".join(commands), text=True, capture_output=True, check=True)


def _checked(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
