"""The kernel source: what the domains on this host used, read from their processes without asking QEMU anything."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from virtpoise_exporter.kernel.process import ProcessStat, is_vcpu, parse_schedstat, parse_stat, uuid_of
from virtpoise_exporter.virt.model import Domain


@dataclass(frozen=True, slots=True)
class Usage:
    """What one domain used since its process began."""

    cpu_seconds: float
    cpu_delay_seconds: float
    resident_bytes: int


@dataclass(slots=True)
class _Process:
    """An open door to one process: `folder` is a descriptor of /proc/PID, which never leads to another process."""

    folder: int
    started_ticks: int
    threads: int = -1
    vcpus: dict[int, int] = field(default_factory=dict)  # thread id -> its run-queue delay at the last reading
    retired_delay: int = 0  # of vCPU threads that have ended: without it the sum would go backwards


class KernelSource:
    """Reads the domains' processes. `find` is for the thread that keeps the inventory, `read` for the scrape."""

    def __init__(self, procfs: Path, state: Path) -> None:
        self._procfs = procfs
        self._state = state
        self._processes: dict[tuple[str, int], _Process] = {}

    def read(self, domain: Domain) -> Usage | None:
        """What the domain used; None if its process cannot be read."""
        key = (domain.uuid, domain.id)
        process = self._processes.get(key) or self._open(key, domain.name)
        if process is None:
            return None
        try:
            stat = parse_stat(_read(process.folder, "stat"))
            if stat.threads != process.threads:
                self._find_vcpus(process, stat)
            return Usage(stat.cpu_seconds, self._delay(process) / 1e9, stat.resident_bytes)
        except OSError:
            self._close(key)
            return None

    def keep(self, living: set[tuple[str, int]]) -> None:
        """Forgets the processes of domains that are gone: `living` holds uuid and id of the others."""
        for key in self._processes.keys() - living:
            self._close(key)

    def _open(self, key: tuple[str, int], name: str) -> _Process | None:
        pid = self._pid(name)
        if pid is None:
            return None
        try:
            folder = os.open(self._procfs / str(pid), os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            return None
        try:
            if uuid_of(_read(folder, "cmdline")) != key[0]:
                raise ProcessLookupError(pid)
            process = _Process(folder, parse_stat(_read(folder, "stat")).started_ticks)
        except OSError:
            os.close(folder)
            return None
        self._processes[key] = process
        return process

    def _pid(self, name: str) -> int | None:
        """libvirt's pid file names the process. During a migration, or on a machine that plays several hosts, /proc
        shows processes of other hosts with the same uuid: the pid file, in this host's own /run, never does."""
        try:
            return int((self._state / f"{name}.pid").read_text())
        except (OSError, ValueError):
            return None

    def _find_vcpus(self, process: _Process, stat: ProcessStat) -> None:
        tasks = os.open("task", os.O_RDONLY | os.O_DIRECTORY, dir_fd=process.folder)
        try:
            living = {int(name) for name in os.listdir(tasks)}  # noqa: PTH208 - a descriptor, not a path
            new = {
                thread: 0
                for thread in living - process.vcpus.keys()
                if is_vcpu(_read(tasks, f"{thread}/comm").decode("utf-8", "replace"))
            }
        finally:
            os.close(tasks)
        for thread in process.vcpus.keys() - living:
            process.retired_delay += process.vcpus.pop(thread)
        process.vcpus |= new
        process.threads = stat.threads

    def _delay(self, process: _Process) -> int:
        for thread in process.vcpus:
            try:
                process.vcpus[thread] = parse_schedstat(_read(process.folder, f"task/{thread}/schedstat"))[1]
            except FileNotFoundError:  # unplugged a moment ago: its last figure stays in the sum
                process.threads = -1
        return process.retired_delay + sum(process.vcpus.values())

    def _close(self, key: tuple[str, int]) -> None:
        os.close(self._processes.pop(key).folder)


def _read(folder: int, name: str) -> bytes:
    descriptor = os.open(name, os.O_RDONLY, dir_fd=folder)
    try:
        return os.read(descriptor, 65536)
    finally:
        os.close(descriptor)
