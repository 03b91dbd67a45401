"""CPU time of the host by mode."""

import psutil

from virtpoise_exporter import metrics
from virtpoise_exporter.exposition import Family

# guest and guest_nice are left out: the kernel counts them in user and nice already
_MODES = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")


class CpuCollector:
    """`/proc/stat` below psutil's proc root."""

    name = "cpu"

    def collect(self, _seconds: float) -> list[Family]:
        seconds, cpus = Family(metrics.HOST_CPU_SECONDS), Family(metrics.HOST_CPUS)
        times = psutil.cpu_times()
        for mode in _MODES:
            seconds.add(getattr(times, mode), mode)
        cpus.add(len(psutil.cpu_times(percpu=True)))
        return [seconds, cpus]
