"""Makes the collectors of the topics that are switched on."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from virtpoise_exporter.choice import SourceChoice
from virtpoise_exporter.clock import SYSTEM, Clock
from virtpoise_exporter.collectors import TOPICS, balloon, block
from virtpoise_exporter.collectors.balloon import BalloonCollector
from virtpoise_exporter.collectors.block import BlockCollector
from virtpoise_exporter.collectors.cpu import CpuCollector
from virtpoise_exporter.collectors.domains import DomainsCollector
from virtpoise_exporter.collectors.libvirt import LibvirtCollector
from virtpoise_exporter.collectors.memory import MemoryCollector
from virtpoise_exporter.collectors.network import NetworkCollector
from virtpoise_exporter.collectors.numa import NumaCollector
from virtpoise_exporter.collectors.pressure import PressureCollector
from virtpoise_exporter.collectors.speed import SpeedCollector
from virtpoise_exporter.kernel.topology import TopologyKeeper
from virtpoise_exporter.scrape import Collector
from virtpoise_exporter.virt.link import Link
from virtpoise_exporter.virt.stats import Ask


@dataclass(frozen=True, slots=True)
class Parts:
    """What collectors read from."""

    procfs: Path
    sysfs: Path
    state: Path
    cpu_speed: float | None  # a ratio; None if it is to be measured
    link: Link
    statistics: Callable[[int], Ask]  # from groups (VIR_DOMAIN_STATS_*) to a function that asks libvirt for them
    choice: SourceChoice
    topology: TopologyKeeper
    clock: Clock = SYSTEM


def build(names: Collection[str], parts: Parts) -> tuple[Collector, ...]:
    """The collectors with these names, in the order of ``TOPICS``."""
    make: dict[str, Callable[[], Collector]] = {
        "cpu": lambda: CpuCollector(parts.procfs),
        "memory": lambda: MemoryCollector(parts.procfs),
        "network": lambda: NetworkCollector(parts.topology, parts.procfs),
        "pressure": lambda: PressureCollector(parts.procfs),
        "numa": lambda: NumaCollector(parts.sysfs),
        "speed": lambda: SpeedCollector(parts.cpu_speed, parts.procfs, parts.state),
        "libvirt": lambda: LibvirtCollector(parts.link, parts.procfs, parts.clock),
        "domains": lambda: DomainsCollector(parts.link, parts.choice, parts.topology, parts.clock),
        "block": lambda: BlockCollector(parts.link, parts.statistics(block.GROUPS), parts.clock),
        "balloon": lambda: BalloonCollector(parts.link, parts.statistics(balloon.GROUPS), parts.clock),
    }
    return tuple(make[topic.name]() for topic in TOPICS if topic.name in names)
