"""A room for machines: namespaces of mounts, network and processes that end with the process that made them.

Mounts, links, processes and all that machines write live in these namespaces. So nothing but empty control groups is
left on this machine, even where the process that made the room is killed; the next room removes those.
"""

import itertools
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from virtpoise_lab.errors import LabError

# Inside the room: a file system in memory for what machines write.
FOLDER = Path("/run/virtpoise-machines")
BRIDGE = "lan"
_SET_UP = f"""
set -e
mkdir -p {FOLDER}
mount -t tmpfs -o mode=0755,size=75% machines {FOLDER}
ip link set dev lo up
ip link add name {BRIDGE} type bridge
ip link set dev {BRIDGE} up
echo ready
exec cat >/dev/null
"""
_GROUPS = "virtpoise-machines-"  # then the process that made the room, and the room's number there
_numbers = itertools.count(1)
# A group in the root of a hierarchy weighs as much as one process there. So machines would starve beside a few busy
# programs, and connections to them would time out. All of them together count as this many busy processes: far fewer
# than a lab, whose hosts may measure their load beside them.
_WEIGHT = 12


class Room:
    """Holds the namespaces as long as this process lives and `close` was not called."""

    def __init__(self) -> None:
        _remove_left_groups()
        name = f"{_GROUPS}{os.getpid()}-{next(_numbers)}"
        self._groups = [root / name for root in _hierarchies()]
        for group in self._groups:
            group.mkdir()
            _weigh(group)
        self._holder = subprocess.Popen(
            ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", _SET_UP],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != b"ready\n":
            self.close()
            raise LabError("the room for machines could not be made: see above")
        self._inside = children(self._holder.pid)[0]

    def close(self) -> None:
        """Ends all that runs in the room, and with it the room."""
        assert self._holder.stdin is not None
        assert self._holder.stdout is not None
        self._holder.stdin.close()
        self._holder.stdout.close()
        self._holder.wait(30)
        for group in self._groups:
            _remove(group)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def command(self, arguments: Sequence[str]) -> list[str]:
        """The command that runs these arguments in the room."""
        return ["nsenter", f"--target={self._inside}", "--mount", "--net", "--pid", "--", *arguments]

    def grouped(self, command: Sequence[str], group: str) -> list[str]:
        """The command that joins a control group of the room, made if it is missing, and then becomes ``command``."""
        joined = " ".join(str(top / group) for top in self._groups)
        join = f'mkdir -p {joined}; for folder in {joined}; do echo $$ > "$folder/cgroup.procs"; done; exec "$@"'
        return ["sh", "-ec", join, "sh", *command]

    def run(self, *arguments: str) -> None:
        """Runs a command in the room. LabError when it fails."""
        ran = subprocess.run(self.command(arguments), capture_output=True, text=True, check=False)
        if ran.returncode:
            raise LabError(f"{' '.join(arguments)}: {ran.stderr.strip() or ran.stdout.strip()}")

    def is_left_by(self, process: int) -> bool:
        """Whether a process that began in the room has a network namespace of its own by now."""
        return Path(f"/proc/{process}/ns/net").readlink() != Path(f"/proc/{self._inside}/ns/net").readlink()

    def give(self, link: str, process: int) -> None:
        """Moves a link of the room into the network namespace of a process."""
        move = ["ip", "link", "set", "dev", link, "netns", str(process)]
        subprocess.run(["nsenter", f"--target={self._inside}", "--net", "--", *move], check=True)


def children(pid: int) -> list[int]:
    """The process's children by number."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def _hierarchies() -> list[Path]:
    """Where control groups are mounted, without cpuset's: a new group there takes no process before it has CPUs."""
    roots = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        if kind == "cgroup2" or (kind == "cgroup" and "cpuset" not in options.split(",")):
            roots.append(Path(before.split()[4]))
    return roots


def _weigh(group: Path) -> None:
    """Sets the group's weight against other processes, where its hierarchy shares out CPU time."""
    for name, of_one_process in (("cpu.shares", 1024), ("cpu.weight", 100)):  # version 1 and 2
        if (group / name).exists():
            (group / name).write_text(str(of_one_process * _WEIGHT))


def _remove_left_groups() -> None:
    """Removes the groups of rooms whose process is gone."""
    for root in _hierarchies():
        for group in root.glob(f"{_GROUPS}*"):
            pid = group.name.removeprefix(_GROUPS).partition("-")[0]
            if not Path(f"/proc/{pid}").exists():
                _remove(group)


def _remove(group: Path) -> None:
    for folder, _, _ in os.walk(group, topdown=False):
        Path(folder).rmdir()
