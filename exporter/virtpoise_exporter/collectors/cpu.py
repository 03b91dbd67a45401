"""CPU time of the host by mode."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from virtpoise_exporter import metrics
from virtpoise_exporter.exposition import Family
from virtpoise_exporter.kernel.process import TICKS

# guest and guest_nice are left out: the kernel counts them in user and nice already
_MODES = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
_RESET_TICKS = 3 * TICKS  # a counter that falls by more was reset


class CpuCollector:
    """CPU time of the host from ``/proc/stat``: the sum over the CPUs, each followed by itself."""

    name = "cpu"

    def __init__(self, procfs: Path) -> None:
        self._file = procfs / "stat"
        self._times = CpuTimes()

    def collect(self, _seconds: float) -> list[Family]:
        seconds, count = Family(metrics.HOST_CPU_SECONDS), Family(metrics.HOST_CPUS)
        cpus = parse_cpus(self._file.read_text())
        for mode, ticks in zip(_MODES, self._times.add(cpus), strict=True):
            seconds.add(ticks / TICKS, mode)
        count.add(len(cpus))
        return [seconds, count]


class CpuTimes:
    """The ticks of all CPUs in each mode, which never fall.

    The kernel's own sum is not used. It loses the idle time of a CPU that goes offline, and many kernels begin that
    time again from zero when the CPU comes back. Prometheus would take the fall for a counter reset, and so for a host
    whose CPUs were idle for hours within one scrape.

    The kernel also lets idle and iowait fall by a few ticks (proc(5)). Such a counter stands still until it catches up.
    """

    def __init__(self) -> None:
        self._last: dict[str, list[int]] = {}
        self._before = [0] * len(_MODES)

    def add(self, cpus: Mapping[str, Sequence[int]]) -> list[int]:
        """The sums after new readings of the CPUs that are online.

        A CPU that is offline stays in the sum with its last reading. One that is first seen later counts from then on:
        what it did before is not of this scrape.
        """
        first = not self._last
        for cpu, readings in cpus.items():
            last = self._last.get(cpu)
            if last is None:
                self._last[cpu] = list(readings)
                if not first:
                    self._before = [before - now for before, now in zip(self._before, readings, strict=True)]
                continue
            for mode, now in enumerate(readings):
                if now < last[mode] - _RESET_TICKS:
                    self._before[mode] += last[mode]
                    last[mode] = now
                elif now > last[mode]:
                    last[mode] = now
        return [
            before + sum(ticks)
            for before, ticks in zip(self._before, zip(*self._last.values(), strict=True), strict=True)
        ]


def parse_cpus(text: str) -> dict[str, list[int]]:
    """Ticks in each mode by CPU, from the lines of ``/proc/stat`` such as ``cpu0 18716 60 9928 201310 1177 0 133 1076
    4500 0``: the CPUs that are online.

    Raises ValueError if there is none.
    """
    cpus = {}
    for line in text.split("\n"):
        name, *fields = line.split() or ("",)
        if not name.startswith("cpu"):
            break  # the CPUs stand at the top
        if name != "cpu":  # the kernel's own sum
            cpus[name] = [int(field) for field in fields[: len(_MODES)]]
    if not cpus:
        raise ValueError("/proc/stat has no line of a CPU")
    return cpus
