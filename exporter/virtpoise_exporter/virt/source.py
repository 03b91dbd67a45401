"""The libvirt source: the domains' usage from libvirt's statistics, where the kernel's files cannot be read."""

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import libvirt

from virtpoise_exporter.source import Traffic, Usage, VcpuSums
from virtpoise_exporter.virt.model import Domain
from virtpoise_exporter.virt.stats import Ask

GROUPS = (
    libvirt.VIR_DOMAIN_STATS_CPU_TOTAL
    | libvirt.VIR_DOMAIN_STATS_VCPU
    | libvirt.VIR_DOMAIN_STATS_BALLOON
    | libvirt.VIR_DOMAIN_STATS_INTERFACE
)


class LibvirtSource:
    """Asks libvirt in bulk at every scrape."""

    name = "libvirt"

    def __init__(self, ask: Ask) -> None:
        """``ask`` returns libvirt's statistics of the groups ``GROUPS``."""
        self._ask = ask
        self._sums: dict[tuple[str, int], VcpuSums] = {}
        self._summing = threading.Lock()

    def read(self, domains: Sequence[Domain], seconds: float) -> Mapping[str, Usage]:
        """See Source."""
        stats = self._ask(domains, seconds).stats
        with self._summing:
            lives = [(domain.uuid, domain.id) for domain in domains]
            self._sums = {life: self._sums.get(life) or VcpuSums() for life in lives}
            return {uuid: usage(stats[uuid], self._sums[uuid, life]) for uuid, life in lives if uuid in stats}


def usage(stats: Mapping[str, Any], sums: VcpuSums) -> Usage:
    """A domain's usage from libvirt's keys. A missing key (the domain is busy) gives None.

    ``vcpu.N.time``, ``vcpu.N.delay`` and ``cpu.time`` are nanoseconds, whatever the manual says; ``balloon.rss`` is in
    KiB.
    """
    runs, delays = _of_vcpus(stats, ".time"), _of_vcpus(stats, ".delay")
    cpu, resident = stats.get("cpu.time"), stats.get("balloon.rss")
    return Usage(
        cpu_seconds=None if cpu is None else cpu / 1e9,
        vcpu_seconds=sums.run.add(runs) / 1e9 if runs else None,
        cpu_delay_seconds=sums.delay.add(delays) / 1e9 if delays else None,
        resident_bytes=None if resident is None else resident * 1024,
        traffic={
            name: Traffic(stats[f"net.{index}.rx.bytes"], stats[f"net.{index}.tx.bytes"])
            for index in range(stats.get("net.count", 0))
            if (name := stats.get(f"net.{index}.name"))
            and {f"net.{index}.rx.bytes", f"net.{index}.tx.bytes"} <= stats.keys()
        },
    )


def _of_vcpus(stats: Mapping[str, Any], what: str) -> dict[str, int]:
    return {key: value for key, value in stats.items() if key.startswith("vcpu.") and key.endswith(what)}
