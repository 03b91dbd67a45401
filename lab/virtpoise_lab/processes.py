"""Processes of the lab, identified by number and start time: a number may be given to another process later."""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from virtpoise_lab.errors import LabError


@dataclass(frozen=True, slots=True)
class Process:
    """A process by number and start time (clock ticks since boot, proc(5) stat field 22)."""

    pid: int
    start: int

    def alive(self) -> bool:
        """Whether this very process still runs; a zombie does not."""
        stat = _stat(self.pid)
        return stat is not None and int(stat[19]) == self.start and stat[0] not in "ZX"

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal, if the process is still there."""
        if self.alive():
            signal_pid(self.pid, number)


def process(pid: int) -> Process:
    """The process that has this number now; start 0, which is never alive, if there is none."""
    stat = _stat(pid)
    return Process(pid, int(stat[19]) if stat else 0)


def child_of(parent: int, among: list[int]) -> int | None:
    """The one of these processes whose parent is ``parent``."""
    for pid in among:
        stat = _stat(pid)
        if stat is not None and int(stat[1]) == parent:
            return pid
    return None


def signal_pid(pid: int, number: signal.Signals) -> None:
    """Sends a signal; a process that has ended is no error."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def go_on_in_own_network(command: list[str]) -> NoReturn:
    """Replaces this process by a command in a network namespace of its own."""
    os.execvp("unshare", ["unshare", "--net", "sh", "-c", 'ip link set lo up; exec "$@"', "sh", *command])


def wait_until(done: Callable[[], bool], seconds: float, what: str, every: float = 0.02) -> None:
    """Asks until ``done`` says yes; raises LabError that names ``what`` when the time is over."""
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            raise LabError(f"{what}: not within {seconds:g} s")
        time.sleep(every)


def _stat(pid: int) -> list[str] | None:
    """Fields 3 (state) and on of /proc/PID/stat; None if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
