"""CPU time of the host by mode."""

import psutil

from virtpoise_exporter import metrics
from virtpoise_exporter.exposition import Family

# guest and guest_nice are left out: the kernel counts them in user and nice already
_MODES = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")


_RESET_SECONDS = 3.0  # a counter that falls by more has begun anew


class CpuCollector:
    """`/proc/stat` below psutil's proc root.

    The kernel sometimes lets idle and iowait fall by a few ticks (proc(5)), which Prometheus would take for a counter
    that begins anew, and the host for one that was never so busy. Such a counter stands still until it catches up.
    """

    name = "cpu"

    def __init__(self) -> None:
        self._last: dict[str, float] = {}

    def collect(self, _seconds: float) -> list[Family]:
        seconds, cpus = Family(metrics.HOST_CPU_SECONDS), Family(metrics.HOST_CPUS)
        times = psutil.cpu_times()
        for mode in _MODES:
            self._last[mode] = steady(self._last.get(mode, 0.0), getattr(times, mode))
            seconds.add(self._last[mode], mode)
        cpus.add(len(psutil.cpu_times(percpu=True)))
        return [seconds, cpus]


def steady(last: float, now: float) -> float:
    """A counter's value that does not fall, unless it has begun anew."""
    return last if last - _RESET_SECONDS <= now < last else now
