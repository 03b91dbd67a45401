"""What each domain used: CPU, waiting for CPU, resident memory, network."""

from collections.abc import Mapping
from pathlib import Path

from virtpoise_exporter import metrics
from virtpoise_exporter.exposition import Family, escape
from virtpoise_exporter.kernel.domains import KernelSource
from virtpoise_exporter.kernel.netdev import (
    Counters,
    parse_default_route,
    parse_netdev,
    read_links,
    uplink_below,
    uplinks,
)
from virtpoise_exporter.kernel.netdev import (
    Link as NetworkLink,
)
from virtpoise_exporter.virt.link import Link
from virtpoise_exporter.virt.model import Domain, Nic


class DomainsCollector:
    """Joins the last inventory with what the kernel counts now."""

    name = "domains"

    def __init__(self, link: Link, source: KernelSource, procfs: Path, sysfs: Path) -> None:
        self._link = link
        self._source = source
        self._procfs = procfs
        self._sysfs = sysfs

    def collect(self) -> list[Family]:
        inventory = self._link.last_inventory()
        active = [domain for domain in inventory.domains if domain.active] if inventory else []
        self._source.keep({(domain.uuid, domain.id) for domain in active})
        return [*self._usage(active), *self._network(active)]

    def _usage(self, domains: list[Domain]) -> list[Family]:
        cpu, delay = Family(metrics.DOMAIN_CPU_SECONDS), Family(metrics.DOMAIN_CPU_DELAY)
        resident = Family(metrics.DOMAIN_MEMORY_RESIDENT)
        for domain in domains:
            usage = self._source.read(domain)
            if usage is None:
                continue
            cpu.samples.append((domain.block, usage.cpu_seconds))
            delay.samples.append((domain.block, usage.cpu_delay_seconds))
            resident.samples.append((domain.block, usage.resident_bytes))
        return [cpu, delay, resident]

    def _network(self, domains: list[Domain]) -> list[Family]:
        received, sent = Family(metrics.DOMAIN_NETWORK_RECEIVE), Family(metrics.DOMAIN_NETWORK_TRANSMIT)
        if any(domain.facts.nics for domain in domains):
            counters = parse_netdev((self._procfs / "net/dev").read_text())
            links = read_links(self._sysfs)
            route = parse_default_route((self._procfs / "net/route").read_text())
            for domain in domains:
                for nic in domain.facts.nics:
                    if nic.device in counters:
                        seen = as_guest_sees(nic, counters[nic.device])
                        uplink = uplink_of(nic, links, route)
                        block = f'{domain.block},device="{escape(nic.device)}",uplink="{escape(uplink)}"'
                        received.samples.append((block, seen.received))
                        sent.samples.append((block, seen.sent))
        return [received, sent]


def as_guest_sees(nic: Nic, host: Counters) -> Counters:
    """A tap is the other end of the guest's cable, so its directions are swapped; a macvtap shares the guest's view."""
    return host if nic.kind == "direct" else Counters(received=host.sent, sent=host.received)


def uplink_of(nic: Nic, links: Mapping[str, NetworkLink], default_route: str) -> str:
    """The uplink behind a domain's device: below its bridge or macvtap, or the default route's for a NAT network."""
    among = uplinks(links)
    below = uplink_below(nic.lower or nic.bridge, links, among)
    if not below and nic.kind == "network":
        below = uplink_below(default_route, links, among)
    return below
