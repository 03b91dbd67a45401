"""CPU time of the host by mode."""

import psutil

from virtpoise_exporter import metrics
from virtpoise_exporter.exposition import Family

# guest and guest_nice are left out: the kernel counts them in user and nice already
_MODES = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")


_RESET_SECONDS = 3.0  # a counter that falls by more has been reset


class CpuCollector:
    """``/proc/stat`` below psutil's proc root.

    The kernel sometimes lets idle and iowait fall by a few ticks (proc(5)). Prometheus would take this for a counter
    reset, and so for a very busy host. Such a counter stands still until it catches up.
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
    """The counter's value to show: it never falls, unless it has been reset."""
    return last if last - _RESET_SECONDS <= now < last else now
