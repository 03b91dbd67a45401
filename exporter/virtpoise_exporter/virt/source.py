"""The libvirt source: the domains' usage from libvirt's statistics, where the kernel's files cannot be read."""

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import libvirt

from virtpoise_exporter.usage import Flow, Traffic, Usage, VcpuSums
from virtpoise_exporter.virt.model import Domain
from virtpoise_exporter.virt.stats import Ask, devices

GROUPS = (
    libvirt.VIR_DOMAIN_STATS_CPU_TOTAL
    | libvirt.VIR_DOMAIN_STATS_VCPU
    | libvirt.VIR_DOMAIN_STATS_BALLOON
    | libvirt.VIR_DOMAIN_STATS_INTERFACE
)
# vCPUs run within the domain's CPU time. The two are read one after the other, and one of them is counted in ticks.
_MOST_OF_CPU = 1.05
_SLACK = 1_000_000_000


class LibvirtSource:
    """Asks libvirt in bulk at every scrape."""

    name = "libvirt"

    def __init__(self, ask: Ask) -> None:
        """Read domains from libvirt alone. ``ask`` returns libvirt's statistics of the groups ``GROUPS``."""
        self._ask = ask
        self._sums: dict[tuple[str, int], VcpuSums] = {}
        self._summing = threading.Lock()

    def read(self, domains: Sequence[Domain], seconds: float) -> Mapping[str, Usage]:
        """See ``choice.Source``."""
        stats = self._ask(domains, seconds).stats
        with self._summing:
            lives = [(domain.uuid, domain.id) for domain in domains]
            self._sums = {life: self._sums.get(life) or VcpuSums() for life in lives}
            return {
                domain.uuid: usage(stats[domain.uuid], self._sums[domain.uuid, domain.id], running=domain.running)
                for domain in domains
                if domain.uuid in stats
            }


def usage(stats: Mapping[str, Any], sums: VcpuSums, *, running: bool) -> Usage:
    """A domain's usage from libvirt's keys. A missing key (the domain is busy) gives None, and so does a figure that
    cannot be: libvirt reports 0 for what it cannot read.

    ``vcpu.N.time``, ``vcpu.N.delay`` and ``cpu.time`` are nanoseconds, whatever the manual says; ``balloon.rss`` is in
    KiB.
    """
    runs, delays = _of_vcpus(stats, ".time"), _of_vcpus(stats, ".delay")
    cpu, resident = stats.get("cpu.time"), stats.get("balloon.rss")
    vcpu = sums.run.add(runs) if runs else None
    if not any(delays.values()) and any(runs.values()):  # a kernel without scheduler statistics
        delays = {}
    if cpu is not None and vcpu is not None:
        if vcpu > _MOST_OF_CPU * cpu + _SLACK:  # of a process that is not QEMU, where the domain has no cgroup
            cpu = None
        elif running and vcpu == 0 and cpu > _SLACK:  # the threads are not of the process that libvirt knows
            vcpu = None
    return Usage(
        cpu_seconds=None if cpu is None else cpu / 1e9,
        vcpu_seconds=None if vcpu is None else vcpu / 1e9,
        cpu_delay_seconds=sums.delay.add(delays) / 1e9 if delays else None,
        resident_bytes=None if resident is None else resident * 1024,
        traffic={
            name: Traffic(_flow(stats, f"net.{index}.rx"), _flow(stats, f"net.{index}.tx"))
            for index in devices(stats, "net")
            if (name := stats.get(f"net.{index}.name"))
            and {f"net.{index}.rx.bytes", f"net.{index}.tx.bytes"} <= stats.keys()
        },
    )


def _flow(stats: Mapping[str, Any], way: str) -> Flow:
    return Flow(stats[f"{way}.bytes"], *(stats.get(f"{way}.{what}") for what in ("pkts", "errs", "drop")))


def _of_vcpus(stats: Mapping[str, Any], what: str) -> dict[str, int]:
    return {key: value for key, value in stats.items() if key.startswith("vcpu.") and key.endswith(what)}
