"""What tests see of the lab from outside: what a host reads of itself, and what there is on this machine."""

import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from virtpoise_lab import cgroups, state
from virtpoise_lab.host import Host
from virtpoise_lab.lab import Lab
from virtpoise_lab.processes import Process, process


@dataclass(frozen=True)
class CpuTimes:
    """What a host reads in its own /proc/stat, in clock ticks since it started."""

    total: int
    idle: int
    stolen: int


def cpu_times(host: Host) -> CpuTimes:
    line = host.run(["cat", "/proc/stat"], capture_output=True, text=True).stdout.splitlines()[0]
    fields = [int(field) for field in line.split()[1:9]]
    return CpuTimes(sum(fields), fields[3] + fields[4], fields[7])


@dataclass(frozen=True)
class Measured:
    """Parts of a host's CPU time, as the host reads them itself.

    used: what it used; right for guests that catch up on what others took. wanted: that, and what others took; right
    for guests that do not catch up, and for a host that wants all it can get.
    """

    used: float
    wanted: float


def cpu_over(host: Host, seconds: float = 3) -> Measured:
    """What a host did with its CPU over that time."""
    before = cpu_times(host)
    time.sleep(seconds)  # a share of time is measured over a time
    after = cpu_times(host)
    total = after.total - before.total
    idle, stolen = ((getattr(after, of) - getattr(before, of)) / total for of in ("idle", "stolen"))
    return Measured(1 - idle - stolen, 1 - idle)


def memory(host: Host) -> dict[str, int]:
    """The host's own /proc/meminfo, in bytes."""
    text = host.run(["cat", "/proc/meminfo"], capture_output=True, text=True).stdout
    return {line.split(":")[0]: int(line.split()[1]) * 1024 for line in text.splitlines()}


def traces() -> dict[str, object]:
    """What this lab could leave behind on this machine, on which others may come and go."""
    mounts = [Path(line.split()[4]) for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return {
        "mounts": [at for at in sorted(mounts) if not at.is_relative_to("/run") or at.is_relative_to(state.FOLDER)],
        "links": sorted(name for _, name in socket.if_nameindex()),
        "cgroups": [str(path) for root in cgroups.mounted().roots for path in root.glob(cgroups.TOP)],
        "folder": state.FOLDER.exists(),
        "libvirt": [str(path) for path in Path("/var").glob(f"*/libvirt/.lab-{state.NAME}")],
        "hosts file": Path("/etc/hosts").read_text(),
    }


def processes_of(lab: Lab) -> list[Process]:
    """Every process of the lab, guests included."""
    return [process(pid) for group in cgroups.groups(cgroups.mounted()) for pid in group.pids()]


def names_of(found: list[Process]) -> dict[Process, str]:
    """What those run that are still there: libvirtd starts helpers that live for a moment."""
    names = {}
    for one in found:
        with suppress(FileNotFoundError, ProcessLookupError):
            names[one] = Path(f"/proc/{one.pid}/comm").read_text().strip()
    return names


def namespaces_of(found: list[Process]) -> set[str]:
    return _namespaces([str(p.pid) for p in found]) - _namespaces(["self"])


def namespaces_there() -> set[str]:
    """The network namespaces that some process on this machine is in."""
    return _namespaces([path.name for path in Path("/proc").glob("[0-9]*")])


def _namespaces(pids: list[str]) -> set[str]:
    there = set()
    for pid in pids:
        # Gone by now, or the machine's own first process, which may not be looked into: none of the lab's.
        with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            there.add(str(Path(f"/proc/{pid}/ns/net").readlink()))
    return there
