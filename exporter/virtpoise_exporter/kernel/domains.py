"""The kernel source: what the domains of this host used, read from their processes without asking QEMU anything."""

import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from virtpoise_exporter.clock import SYSTEM, Clock
from virtpoise_exporter.kernel.netdev import Counters, read_netdev
from virtpoise_exporter.kernel.process import is_vcpu, parse_schedstat, parse_stat, pid_file, uuid_of
from virtpoise_exporter.usage import Traffic, Usage, VcpuSums
from virtpoise_exporter.virt.model import Domain, Nic

NAMING_SECONDS = 5.0  # QEMU names the threads of its vCPUs much sooner
_ENDED = (FileNotFoundError, ProcessLookupError)


@dataclass(slots=True)
class _Process:
    """One open process. ``folder`` is a descriptor of /proc/PID, which never leads to another process.

    It is closed with its last reference, so never while a scrape still reads through it.
    """

    folder: int
    opened_at: float  # on the monotonic clock
    threads: int = -1
    has_vcpus: bool = False  # whether a thread of it has ever run a vCPU
    vcpus: frozenset[str] = frozenset()  # the threads that run vCPUs
    sums: VcpuSums = field(default_factory=VcpuSums)

    def __del__(self) -> None:
        os.close(self.folder)


class KernelSource:
    """Reads processes, each over a descriptor that stays open.

    ``follow`` finds the processes. Only the thread that lists the domains calls it: a command line lies in the
    process's own memory and may be slow to read. ``read`` is called by scrapes and reads only what the kernel keeps.
    """

    name = "kernel"

    def __init__(self, procfs: Path, state: Path, clock: Clock = SYSTEM) -> None:
        self._procfs = procfs
        self._state = state
        self._clock = clock
        self._processes: Mapping[tuple[str, int], _Process] = {}
        self._reading = threading.Lock()

    def follow(self, domains: Iterable[Domain]) -> None:
        """Opens the processes of domains that have started, and drops those of domains that have ended."""
        found = {}
        for domain in domains:
            if domain.active:
                key = (domain.uuid, domain.id)
                process = self._processes.get(key) or self._open(domain)
                if process is not None:
                    found[key] = process
        self._processes = found

    def reads(self, domain: Domain) -> bool:
        """Whether the domain's process is open."""
        return (domain.uuid, domain.id) in self._processes

    def wrapped(self, domain: Domain) -> bool:
        """Whether the domain's process has run no vCPU, long after it was found: QEMU is a child of it, for example.

        Its CPU time is not the domain's.
        """
        process = self._processes.get((domain.uuid, domain.id))
        if process is None or process.has_vcpus or self._clock.monotonic() - process.opened_at <= NAMING_SECONDS:
            return False
        try:
            process.has_vcpus = bool(_vcpu_threads(process.folder))  # it may not have been read for a while
        except OSError:  # it has ended
            return False
        return not process.has_vcpus

    def read(self, domains: Sequence[Domain], _seconds: float) -> Mapping[str, Usage]:
        """See ``choice.Source``. Only the kernel is asked, which does not block, so the time is not limited."""
        processes, usages = self._processes, {}
        counters = self._counters() if any(domain.facts.nics for domain in domains) else {}
        with self._reading:
            for domain in domains:
                process = processes.get((domain.uuid, domain.id))
                if process is None:
                    continue
                try:
                    stat = parse_stat(_read(process.folder, "stat"))
                except (OSError, ValueError, IndexError):  # it ended between the list and now
                    continue
                run, delay = _vcpu_times(process, stat.threads, domain.facts.vcpus)
                usages[domain.uuid] = Usage(
                    cpu_seconds=stat.cpu_seconds if process.has_vcpus else None,
                    vcpu_seconds=run,
                    cpu_delay_seconds=delay,
                    resident_bytes=stat.resident_bytes,
                    traffic=_traffic(domain.facts.nics, counters),
                )
        return usages

    def _open(self, domain: Domain) -> _Process | None:
        """The process that libvirt's pid file names, if its command line carries the domain's uuid.

        During a migration, or on a machine that plays several hosts, /proc also shows processes of other hosts with
        the same uuid. The pid file lies in this host's own /run and names none of those.
        """
        try:
            pid = int((self._state / pid_file(domain.name)).read_text())
            folder = os.open(self._procfs / str(pid), os.O_RDONLY | os.O_DIRECTORY)
            process = _Process(folder, self._clock.monotonic())
            return process if uuid_of(_read(process.folder, "cmdline")) == domain.uuid else None
        except (OSError, ValueError):
            return None

    def _counters(self) -> Mapping[str, Counters]:
        """The counters of all network devices; none if they cannot be read, which says nothing of the rest."""
        try:
            return read_netdev(self._procfs)
        except OSError:
            return {}


def _vcpu_times(process: _Process, threads: int, vcpus: int) -> tuple[float | None, float | None]:
    """Seconds that the vCPUs ran, and seconds that they waited for a CPU; None for what the kernel does not count.

    Both None if no thread runs a vCPU, or if the time of one cannot be read: without it the sum would be too low. QEMU
    names a thread after it has created it. So the threads are read again while fewer vCPUs are found than the domain
    has.
    """
    runs, delays, delays_kept = {}, {}, True
    try:
        if threads != process.threads or len(process.vcpus) < vcpus:
            process.vcpus, process.threads = _vcpu_threads(process.folder), threads
            process.has_vcpus = process.has_vcpus or bool(process.vcpus)
        for thread in process.vcpus:
            try:
                runs[thread], delay = _thread_times(process.folder, thread)
            except _ENDED:  # unplugged a moment ago
                process.threads = -1
                continue
            if delay is None:
                delays_kept = False
            else:
                delays[thread] = delay
    except (OSError, ValueError, IndexError):
        return None, None
    if not process.vcpus:
        return None, None
    run = process.sums.run.add(runs) / 1e9
    return run, process.sums.delay.add(delays) / 1e9 if delays_kept else None


def _thread_times(folder: int, thread: str) -> tuple[int, int | None]:
    """Nanoseconds that a thread ran, and that it waited for a CPU: None on a kernel without scheduler statistics."""
    try:
        times = parse_schedstat(_read(folder, f"task/{thread}/schedstat"))
    except FileNotFoundError:  # the thread has ended, or the kernel has no such file
        times = None
    if times is not None:
        return times
    return round(parse_stat(_read(folder, f"task/{thread}/stat")).cpu_seconds * 1e9), None


def _vcpu_threads(folder: int) -> frozenset[str]:
    tasks = os.open("task", os.O_RDONLY | os.O_DIRECTORY, dir_fd=folder)
    vcpus = set()
    try:
        for thread in os.listdir(tasks):  # noqa: PTH208 - a descriptor, not a path
            try:
                if is_vcpu(_read(tasks, f"{thread}/comm").decode("utf-8", "replace")):
                    vcpus.add(thread)
            except _ENDED:
                continue
    finally:
        os.close(tasks)
    return frozenset(vcpus)


def _traffic(nics: Iterable[Nic], counters: Mapping[str, Counters]) -> dict[str, Traffic]:
    """A tap is the other end of the guest's cable, so its directions are swapped; a macvtap shares the guest's view."""
    traffic = {}
    for nic in nics:
        host = counters.get(nic.device)
        if host is not None:
            traffic[nic.device] = Traffic(*host) if nic.kind == "direct" else Traffic(host.sent, host.received)
    return traffic


def _read(folder: int, name: str) -> bytes:
    descriptor = os.open(name, os.O_RDONLY, dir_fd=folder)
    try:
        return os.read(descriptor, 65536)
    finally:
        os.close(descriptor)
