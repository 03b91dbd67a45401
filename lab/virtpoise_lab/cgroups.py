"""A control group per host: what it may use, and which processes are its own. Both versions of the interface.

With version 1 a group is one folder per controller; with version 2 it is one folder. A hybrid machine (version 1 with
an empty version 2 beside it) gets both, since only version 2 measures pressure per group.
"""

import signal
from dataclasses import dataclass
from pathlib import Path

from virtpoise_lab import state
from virtpoise_lab.errors import LabError
from virtpoise_lab.processes import Process, process, signal_pid, wait_until

CONTROLLERS = ("cpu", "cpuacct", "cpuset", "memory")
TOP = state.NAME
_PERIOD = 100_000  # µs, the kernel's own default
# A host weighs this many times as much as the manager's side. So work of Prometheus or the balancer hardly makes a
# guest wait.
_HOST_WEIGHT = 8


@dataclass(frozen=True, slots=True)
class Hierarchies:
    """Where the machine mounts control groups: one folder per version 1 controller, and version 2's."""

    v1: tuple[tuple[str, Path], ...]
    v2: Path | None

    @property
    def roots(self) -> tuple[Path, ...]:
        """Each mount once (version 1 may mount cpu and cpuacct together)."""
        roots = dict.fromkeys(path for _, path in self.v1)
        return (*roots, *((self.v2,) if self.v2 else ()))


def hierarchies(mountinfo: str) -> Hierarchies:
    """Reads /proc/self/mountinfo; raises LabError if the controllers a host needs are not there."""
    v1: dict[str, Path] = {}
    v2 = None
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        path = Path(before.split()[4])
        if kind == "cgroup2":
            v2 = path
        elif kind == "cgroup":
            v1.update({option: path for option in options.split(",") if option in CONTROLLERS})
    if v1 and set(v1) != set(CONTROLLERS):
        raise LabError(f"cgroup controllers missing: {', '.join(sorted(set(CONTROLLERS) - set(v1)))}")
    if not v1 and v2 is None:
        raise LabError("no cgroups are mounted on this machine")
    return Hierarchies(tuple(sorted(v1.items())), v2)


def mounted() -> Hierarchies:
    return hierarchies(Path("/proc/self/mountinfo").read_text())


@dataclass(frozen=True, slots=True)
class Group:
    """One group below the lab's own; made by ``create``, gone with ``remove_all``."""

    mounts: Hierarchies
    name: str

    @property
    def folders(self) -> tuple[Path, ...]:
        return tuple(root / TOP / self.name for root in self.mounts.roots)

    @property
    def pressure(self) -> Path | None:
        """The folder with this group's *.pressure files; None where the kernel does not measure them."""
        if self.mounts.v2 is None:
            return None
        folder = self.mounts.v2 / TOP / self.name
        return folder if (folder / "cpu.pressure").exists() else None

    def create(self) -> None:
        for root in self.mounts.roots:
            (root / TOP / self.name).mkdir(parents=True, exist_ok=True)
        if self.mounts.v1:
            top = dict(self.mounts.v1)["cpuset"] / TOP
            for folder in (top, top / self.name):  # an empty cpuset takes no process
                for file in ("cpuset.cpus", "cpuset.mems"):
                    (folder / file).write_text((folder.parent / file).read_text())
        elif self.mounts.v2:
            for folder in (self.mounts.v2, self.mounts.v2 / TOP):
                try:
                    (folder / "cgroup.subtree_control").write_text("+cpu +cpuset +memory")
                except OSError as error:
                    raise LabError(
                        f"{folder}: the cpu, cpuset and memory controllers cannot be used: {error}"
                    ) from None

    def limit_cpu(self, cpu: int, share: float | None) -> None:
        """Runs the group on this CPU only, for at most that part of its time (None for all of it), before the
        manager's side.
        """
        quota = None if share is None else round(share * _PERIOD)
        if self.mounts.v1:
            folders = {name: path / TOP / self.name for name, path in self.mounts.v1}
            (folders["cpuset"] / "cpuset.cpus").write_text(str(cpu))
            (folders["cpu"] / "cpu.cfs_period_us").write_text(str(_PERIOD))
            (folders["cpu"] / "cpu.cfs_quota_us").write_text(str(quota or -1))
            (folders["cpu"] / "cpu.shares").write_text(str(1024 * _HOST_WEIGHT))
        elif self.mounts.v2:
            folder = self.mounts.v2 / TOP / self.name
            (folder / "cpuset.cpus").write_text(str(cpu))
            (folder / "cpu.max").write_text(f"{quota or 'max'} {_PERIOD}")
            (folder / "cpu.weight").write_text(str(100 * _HOST_WEIGHT))

    def limit_memory(self, size: int) -> None:
        if self.mounts.v1:
            (dict(self.mounts.v1)["memory"] / TOP / self.name / "memory.limit_in_bytes").write_text(str(size))
        elif self.mounts.v2:
            (self.mounts.v2 / TOP / self.name / "memory.max").write_text(str(size))

    def usage(self) -> tuple[float, float]:
        """Seconds of CPU time that the group has used so far: in programs, and in the kernel for them."""
        if self.mounts.v1:
            folder = dict(self.mounts.v1)["cpuacct"] / TOP / self.name
            user, system = (int((folder / f"cpuacct.usage_{part}").read_text()) / 1e9 for part in ("user", "sys"))
            return user, system
        fields = _fields(self._cpu_folder() / "cpu.stat")
        return int(fields["user_usec"]) / 1e6, int(fields["system_usec"]) / 1e6

    def waited(self) -> float:
        """Seconds for which the group had work, none of it ran, and its own limit was not the reason, so far.

        It is PSI's ``full`` without the time in which the group was throttled; 0 where PSI is missing.
        """
        if self.pressure is None:
            return 0.0
        full = next(
            line for line in (self.pressure / "cpu.pressure").read_text().splitlines() if line.startswith("full")
        )
        return int(full.rpartition("total=")[2]) / 1e6 - self._throttled()

    def _throttled(self) -> float:
        """Seconds for which the group's limit kept it from its CPU, so far."""
        name, unit = ("throttled_time", 1e9) if self.mounts.v1 else ("throttled_usec", 1e6)
        return int(_fields(self._cpu_folder() / "cpu.stat")[name]) / unit

    def _cpu_folder(self) -> Path:
        """The folder with the files of the controller ``cpu``."""
        root = dict(self.mounts.v1)["cpu"] if self.mounts.v1 else self.mounts.v2
        assert root
        return root / TOP / self.name

    def cpu(self) -> int:
        """The CPU that the group runs on, as ``limit_cpu`` has set it."""
        root = dict(self.mounts.v1)["cpuset"] if self.mounts.v1 else self.mounts.v2
        assert root
        return int((root / TOP / self.name / "cpuset.cpus").read_text())

    def share(self) -> float:
        """The CPUs that the group may use, as ``limit_cpu`` has set it."""
        file = "cpu.cfs_quota_us" if self.mounts.v1 else "cpu.max"
        quota = (self._cpu_folder() / file).read_text().split()[0]
        return 1.0 if quota in ("-1", "max") else int(quota) / _PERIOD

    def joining(self, command: list[str]) -> list[str]:
        """The command that joins the group and then becomes ``command``."""
        joins = "".join(f"echo 0 >{folder}/cgroup.procs; " for folder in self.folders)
        return ["/bin/sh", "-ec", f'{joins}exec "$@"', "sh", *command]

    def pids(self) -> list[int]:
        pids: set[int] = set()
        for folder in self.folders:
            try:
                pids.update(int(line) for line in (folder / "cgroup.procs").read_text().split())
            except FileNotFoundError:
                continue
        return sorted(pids)

    def signal(self, number: signal.Signals) -> None:
        for pid in self.pids():
            signal_pid(pid, number)

    def kill(self, seconds: float = 10) -> None:
        """Kills every process of the group, new ones included, and waits for their end."""
        killed: set[Process] = set()

        def over() -> bool:
            killed.update(process(pid) for pid in self.pids())  # a process leaves its group a little before its end
            self.signal(signal.SIGKILL)
            return not self.pids() and not any(one.alive() for one in killed)

        wait_until(over, seconds, f"the end of the processes of {self.name}")


def _fields(file: Path) -> dict[str, str]:
    """A file of lines of a name and a value."""
    return dict(line.split() for line in file.read_text().splitlines())


def weigh(mounts: Hierarchies, processes: float, top: str = TOP) -> None:
    """Lets the lab as a whole (or the group ``top``) count as this many busy processes, against whatever else runs on
    this machine.
    """
    if mounts.v1:
        shares = min(262_144, round(1024 * processes))  # one process has 1024
        (dict(mounts.v1)["cpu"] / top / "cpu.shares").write_text(str(shares))
    elif mounts.v2:
        (mounts.v2 / top / "cpu.weight").write_text(str(min(10_000, round(100 * processes))))  # one has 100


def groups(mounts: Hierarchies) -> list[Group]:
    """The lab's groups that are there now."""
    names = {folder.name for root in mounts.roots for folder in (root / TOP).glob("*/")}
    return [Group(mounts, name) for name in sorted(names)]


def remove_all(mounts: Hierarchies) -> None:
    """Removes the lab's groups, and kills a process that joined one of them late."""
    for group in groups(mounts):
        for folder in group.folders:
            _remove(folder, group)
    for root in mounts.roots:
        _remove(root / TOP)


def _remove(folder: Path, group: Group | None = None) -> None:
    def gone() -> bool:
        if group:
            group.signal(signal.SIGKILL)
        try:
            folder.rmdir()
        except FileNotFoundError:
            return True
        except OSError:  # the last process is just leaving
            return False
        return True

    wait_until(gone, 5, f"removal of {folder}")
