"""A domain's QEMU process in /proc: its identity, its usage, and how long its vCPUs waited for a CPU.

Fields: https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html and Documentation/scheduler/sched-stats.rst
"""

import itertools
import os
import re
from dataclasses import dataclass
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
_VCPU = re.compile(r"(CPU \d+|ALL CPUs)/")  # QEMU's names of vCPU threads, which libvirt always enables


@dataclass(frozen=True, slots=True)
class ProcessStat:
    """The figures of ``/proc/PID/stat``: CPU time of all threads, living and ended; threads now; resident memory."""

    cpu_seconds: float
    threads: int
    resident_bytes: int


def parse_stat(text: bytes) -> ProcessStat:
    """Parses ``/proc/PID/stat``. The command is in brackets and may itself contain blanks and brackets."""
    fields = text[text.rindex(b")") + 2 :].split()
    return ProcessStat(
        cpu_seconds=(int(fields[11]) + int(fields[12])) / TICKS,
        threads=int(fields[17]),
        resident_bytes=int(fields[21]) * PAGE,
    )


def parse_schedstat(text: bytes) -> tuple[int, int] | None:
    """Nanoseconds on a CPU and nanoseconds waiting for one, from ``/proc/PID/task/TID/schedstat``.

    None on a kernel that keeps no such statistics and writes ``0 0 0`` (built without CONFIG_SCHEDSTATS, and with
    delay accounting off): a thread that has a name has run.
    """
    run, delay, slices = (int(field) for field in text.split())
    return (run, delay) if slices else None


def is_vcpu(thread_name: str) -> bool:
    """Whether a thread of QEMU runs a vCPU: ``CPU 0/KVM``, ``CPU 1/TCG``, or ``ALL CPUs/TCG`` for one thread for
    all.
    """
    return _VCPU.match(thread_name) is not None


def uuid_of(command_line: bytes) -> str:
    """The uuid on QEMU's command line; empty if there is none."""
    arguments = command_line.split(b"\0")
    for flag, value in itertools.pairwise(arguments):
        if flag == b"-uuid":
            return value.decode("ascii", "replace")
    return ""


_ESCAPED = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&apos;"})


def pid_file(domain: str) -> str:
    """The name of a domain's pid file: libvirt escapes it as XML (``R&amp;D.pid``, ``src/util/virpidfile.c``)."""
    return f"{domain.translate(_ESCAPED)}.pid"


def state_folder(uri: str) -> Path | None:
    """Where the libvirtd behind ``uri`` keeps its domains' pid files; None if it is not on this machine.

    libvirt writes ``pid_file(NAME)`` there for each QEMU it starts (``src/qemu/qemu_process.c``).
    """
    scheme, _, rest = uri.partition("://")
    server, _, path = rest.partition("/")
    path, _, query = path.partition("?")
    if scheme not in ("qemu", "qemu+unix") or server:
        return None
    if path == "system":
        return Path("/run/libvirt/qemu")
    if path == "session":
        runtime = os.environ.get("XDG_RUNTIME_DIR")
        return Path(runtime) / "libvirt/qemu/run" if runtime else None
    root = re.match(r"root=([^&]+)", query)
    return Path(root[1]) / "run/qemu" if path == "embed" and root else None
