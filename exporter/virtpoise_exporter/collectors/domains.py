"""What each domain used: CPU, waiting for CPU, resident memory, network."""

from collections.abc import Mapping, Sequence

from virtpoise_exporter import metrics
from virtpoise_exporter.choice import SourceChoice
from virtpoise_exporter.clock import SYSTEM, Clock
from virtpoise_exporter.collectors.staleness import Figure, Lives, Staleness
from virtpoise_exporter.exposition import Family
from virtpoise_exporter.kernel.topology import TopologyKeeper
from virtpoise_exporter.usage import Usage
from virtpoise_exporter.virt.link import Link
from virtpoise_exporter.virt.model import UNSEEN, Domain, Inventory

# in the order of a Flow
_RECEIVED = (
    metrics.DOMAIN_NETWORK_RECEIVE,
    metrics.DOMAIN_NETWORK_RECEIVE_PACKETS,
    metrics.DOMAIN_NETWORK_RECEIVE_ERRORS,
    metrics.DOMAIN_NETWORK_RECEIVE_DROPS,
)
_SENT = (
    metrics.DOMAIN_NETWORK_TRANSMIT,
    metrics.DOMAIN_NETWORK_TRANSMIT_PACKETS,
    metrics.DOMAIN_NETWORK_TRANSMIT_ERRORS,
    metrics.DOMAIN_NETWORK_TRANSMIT_DROPS,
)


class DomainsCollector:
    """Joins the last list of domains with what the source reads now.

    While libvirt is down the domains run on. Their figures are shown as long as the source can read them.
    """

    name = "domains"

    def __init__(self, link: Link, choice: SourceChoice, keeper: TopologyKeeper, clock: Clock = SYSTEM) -> None:
        self._link = link
        self._choice = choice
        self._keeper = keeper
        self._clock = clock
        self._lives = Lives()
        self._staleness = Staleness(self.name)

    def collect(self, seconds: float) -> list[Family]:
        source_info = Family(metrics.SOURCE_INFO)
        source_info.add(1, self._choice.source.name, self._choice.reason)
        inventory = self._link.last_inventory()
        if inventory is None:
            return [source_info]
        active = [domain for domain in inventory.domains if domain.active]
        usages = self._choice.read(active, seconds)
        short = self._lives.short(active, {uuid: _reported(usage) for uuid, usage in usages.items()})
        complete = {uuid for uuid, usage in usages.items() if uuid not in short and _has_cpu_time(usage)}
        stale = self._staleness.judge(active, complete, self._clock.monotonic())
        return [source_info, *_usage(active, usages), *self._traffic(inventory, active, usages), *stale]

    def _traffic(self, inventory: Inventory, active: Sequence[Domain], usages: Mapping[str, Usage]) -> list[Family]:
        received = [Family(metric) for metric in _RECEIVED]
        sent = [Family(metric) for metric in _SENT]
        unseen = Family(metrics.DOMAIN_NETWORK_UNSEEN)
        topology = self._keeper.topology()
        for domain in active:
            usage = usages.get(domain.uuid)
            for nic in domain.facts.nics:
                traffic = usage.traffic.get(nic.device) if usage is not None else None
                if traffic is None:
                    if nic.kind in UNSEEN:
                        unseen.add_shared(domain.labels, 1, nic.device, nic.kind)
                    continue
                uplink = topology.uplink_of(nic, inventory.networks.get(nic.network)) if topology else ""
                if topology is None or nic.device not in topology.devices:
                    self._keeper.want()
                block = domain.labels.block(metrics.NIC, (nic.device, uplink))
                for families, flow in ((received, traffic.received), (sent, traffic.sent)):
                    for family, value in zip(families, flow, strict=True):
                        if value is not None:
                            family.samples.append((block, value))
        return [*received, *sent, unseen]


def _has_cpu_time(usage: Usage) -> bool:
    """Whether the CPU time is known, which every active domain has."""
    return usage.cpu_seconds is not None and usage.vcpu_seconds is not None


def _usage(active: Sequence[Domain], usages: Mapping[str, Usage]) -> list[Family]:
    cpu, vcpu = Family(metrics.DOMAIN_CPU_SECONDS), Family(metrics.DOMAIN_VCPU_SECONDS)
    delay, resident = Family(metrics.DOMAIN_CPU_DELAY), Family(metrics.DOMAIN_MEMORY_RESIDENT)
    for domain in active:
        usage = usages.get(domain.uuid)
        if usage is None:
            continue
        for family, value in (
            (cpu, usage.cpu_seconds),
            (vcpu, usage.vcpu_seconds),
            (delay, usage.cpu_delay_seconds),
            (resident, usage.resident_bytes),
        ):
            if value is not None:
                family.add_shared(domain.labels, value)
    return [cpu, vcpu, delay, resident]


def _reported(usage: Usage) -> list[Figure]:
    reported = [("traffic", device) for device in usage.traffic]
    if usage.cpu_seconds is not None:
        reported.append(("cpu", ""))
    if usage.vcpu_seconds is not None:
        reported.append(("vcpu", ""))
    if usage.cpu_delay_seconds is not None:
        reported.append(("delay", ""))
    if usage.resident_bytes is not None:
        reported.append(("resident", ""))
    return reported
