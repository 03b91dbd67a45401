"""A host's /proc/stat: the CPU time of its cgroup out of the CPU time it may have.

lxcfs does this with version 1 cgroups only; with version 2 it shows the CPU's counters, other hosts' and this machine's
work included. So this is a file system of one file, in FUSE's protocol (linux/fuse.h), made for one host:

    python -m virtpoise_lab.procstat HOST FILE     serves the figures of the host's cgroup at FILE until it is unmounted
"""

import errno
import os
import struct
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from virtpoise_lab import state
from virtpoise_lab.cgroups import Group, mounted

# linux/fuse.h
_FORGET, _GETATTR, _OPEN, _READ, _RELEASE, _INIT, _INTERRUPT, _BATCH_FORGET = 2, 3, 14, 15, 18, 26, 36, 42
_DIRECT_IO = 1
_HEADER = struct.Struct("=IIQQIIII")  # length, opcode, unique, node, uid, gid, pid, padding
_ANSWER = struct.Struct("=IiQ")  # length, error, unique
_MODE = 0o100444

_TICKS = os.sysconf("SC_CLK_TCK")


class Account:
    """Keeps the balance of a host's CPU time: what it could have had so far, what it used, and what others took."""

    def __init__(self, now: float) -> None:
        self._then = now
        self._had = 0.0
        self._stolen = 0
        self._idle = 0

    def text(self, now: float, share: float, user: float, system: float, stolen: float, rest: str) -> str:
        """The file at this moment (proc(5)).

        ``share``: CPUs that the host may use. ``user``, ``system``: seconds that it has used. ``stolen``: seconds for
        which it wanted a CPU and did not get it; what exceeds the unused time is not counted.
        No counter ever runs backwards, also where the kernel let the host have a little more than its share.
        """
        self._had += (now - self._then) * share
        self._then = now
        unused = self._had - user - system
        self._stolen = max(self._stolen, round(min(stolen, unused) * _TICKS))
        self._idle = max(self._idle, round(unused * _TICKS) - self._stolen)
        line = f" {round(user * _TICKS)} 0 {round(system * _TICKS)} {self._idle} 0 0 0 {self._stolen} 0 0\n"
        return f"cpu {line}cpu0{line}{rest}"


class Kept:
    """Measures for how long others kept a host from its CPU: other programs of this machine, and its hypervisor.

    Where the kernel does not measure pressure (PSI), waiting for other programs is not seen.
    """

    def __init__(self, group: Group) -> None:
        self._group = group
        self._used, self._cpu = sum(group.usage()), _times(group.cpu())
        self._waited = self._began = group.waited()
        self._hypervisor = 0.0

    def seconds(self) -> float:
        """Seconds since this object was made."""
        used, cpu = sum(self._group.usage()), _times(self._group.cpu())
        # The kernel counts the hypervisor's part per CPU: the host's is its part of what ran there.
        ran = cpu.busy - self._cpu.busy
        part = min(1.0, (used - self._used) / ran) if ran > 0 else 1.0
        self._hypervisor += (cpu.stolen - self._cpu.stolen) * part
        self._used, self._cpu = used, cpu
        self._waited = max(self._waited, self._group.waited())
        return self._waited - self._began + self._hypervisor


class Steal:
    """Measures the CPU time that others took from a host and that it missed.

    A host that has a part of a CPU misses nothing of the rest, which may be other hosts'.
    """

    def __init__(self, group: Group, now: float) -> None:
        self._group = group
        self._kept = Kept(group)
        self._then, self._before = now, 0.0
        self._seconds = 0.0

    def seconds(self, now: float, spare: float = 0.0) -> float:
        """Seconds stolen since this object was made.

        ``spare``: the part of its time that the host is expected to leave idle. What others took of that part since
        the last call is not missed by guests that catch up.
        """
        kept = self._kept.seconds()
        idle = (now - self._then) * max(spare, 1 - self._group.share())
        self._seconds += max(0.0, kept - self._before - idle)
        self._then, self._before = now, kept
        return self._seconds


@dataclass(frozen=True, slots=True)
class Times:
    """What one of this machine's CPUs did since the machine started, in seconds (proc(5))."""

    busy: float
    stolen: float


def _times(cpu: int) -> Times:
    lines = (line.split() for line in Path("/proc/stat").read_text().splitlines())
    user, nice, system, _, _, irq, softirq, stolen = next(
        (int(field) / _TICKS for field in line[1:9]) for line in lines if line[0] == f"cpu{cpu}"
    )
    return Times(user + nice + system + irq + softirq, stolen)


def _rest() -> str:
    """What is not CPU time is the machine's: boot time, processes, interrupts."""
    return "".join(line for line in Path("/proc/stat").read_text().splitlines(keepends=True) if line[:3] != "cpu")


def serve(device: int, group: Group) -> None:
    """Answers the kernel until the file is unmounted. Each opening of the file sees the figures of that moment."""
    began = time.monotonic()
    account, steal = Account(began), Steal(group, began)
    opened: dict[int, bytes] = {}
    while True:
        try:
            request = os.read(device, 1 << 17)
        except OSError as error:
            if error.errno == errno.ENODEV:
                return
            raise
        _, opcode, unique, *_ = _HEADER.unpack_from(request)
        body = request[_HEADER.size :]
        answer: bytes | None = b""
        if opcode == _INIT:
            # version 7.31; read ahead, flags, requests under way, congestion threshold, longest write, clock's grain in
            # ns
            answer = struct.pack("=IIIIHHII", 7, 31, 0, 0, 16, 12, 4096, 1) + bytes(36)
        elif opcode == _GETATTR:
            times, sizes = (0, 0, 0), (1, 0, 0)  # access, change, status; inode, size, blocks
            attributes = struct.pack("=6Q10I", *sizes, *times, 0, 0, 0, _MODE, 1, 0, 0, 0, 4096, 0)
            answer = struct.pack("=QII", 0, 0, 0) + attributes
        elif opcode == _OPEN:
            user, system = group.usage()
            now = time.monotonic()
            stolen = steal.seconds(now, (state.read() or state.State()).spare)
            opened[unique] = account.text(now, group.share(), user, system, stolen, _rest()).encode()
            answer = struct.pack("=QII", unique, _DIRECT_IO, 0)
        elif opcode == _READ:
            handle, offset, size = struct.unpack_from("=QQI", body)
            answer = opened[handle][offset : offset + size]
        elif opcode == _RELEASE:
            del opened[struct.unpack_from("=Q", body)[0]]
        elif opcode in (_FORGET, _INTERRUPT, _BATCH_FORGET):
            continue  # these are not answered
        else:
            answer = None
        length = _ANSWER.size + len(answer or b"")
        os.write(device, _ANSWER.pack(length, 0 if answer is not None else -errno.ENOSYS, unique) + (answer or b""))


def main(host: str, file: str) -> None:
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode={_MODE:o},user_id=0,group_id=0,allow_other"
    subprocess.run(["mount", "-i", "-t", "fuse", "-o", options, "virtpoise-lab", file], pass_fds=[device], check=True)
    serve(device, Group(mounted(), host))


if __name__ == "__main__":
    main(*sys.argv[1:])
