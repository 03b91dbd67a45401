"""What each disk read, wrote and flushed, how long that took, and its size."""

from collections.abc import Mapping
from typing import Any

import libvirt

from virtpoise_exporter import metrics
from virtpoise_exporter.clock import SYSTEM, Clock
from virtpoise_exporter.collectors.slow import SlowFacts
from virtpoise_exporter.collectors.staleness import Figure
from virtpoise_exporter.exposition import Family, Metric
from virtpoise_exporter.virt.link import Link
from virtpoise_exporter.virt.model import Domain
from virtpoise_exporter.virt.stats import Ask, devices

GROUPS = libvirt.VIR_DOMAIN_STATS_BLOCK
_NANOSECOND = 1e-9
# by libvirt's key: the metric, and by how much libvirt's figure is multiplied
_METRICS: dict[str, tuple[Metric, float]] = {
    "rd.bytes": (metrics.DOMAIN_BLOCK_READ, 1),
    "wr.bytes": (metrics.DOMAIN_BLOCK_WRITTEN, 1),
    "rd.reqs": (metrics.DOMAIN_BLOCK_READ_REQUESTS, 1),
    "wr.reqs": (metrics.DOMAIN_BLOCK_WRITE_REQUESTS, 1),
    "fl.reqs": (metrics.DOMAIN_BLOCK_FLUSH_REQUESTS, 1),
    "rd.times": (metrics.DOMAIN_BLOCK_READ_SECONDS, _NANOSECOND),
    "wr.times": (metrics.DOMAIN_BLOCK_WRITE_SECONDS, _NANOSECOND),
    "fl.times": (metrics.DOMAIN_BLOCK_FLUSH_SECONDS, _NANOSECOND),
    "capacity": (metrics.DOMAIN_BLOCK_CAPACITY, 1),
}


class BlockCollector:
    """Disk counters of domains with disks."""

    name = "block"

    def __init__(self, link: Link, ask: Ask, clock: Clock = SYSTEM) -> None:
        """Collect block statistics. ``ask`` returns libvirt's statistics of the group ``GROUPS``."""
        self.facts = SlowFacts(self.name, link, ask, lambda domain: bool(domain.facts.disks), _parse, clock)

    def start(self) -> None:
        """Starts to ask libvirt in the background."""
        self.facts.start()

    def collect(self, _seconds: float) -> list[Family]:
        families = {key: Family(metric) for key, (metric, _) in _METRICS.items()}

        def show(domain: Domain, figures: Mapping[Figure, float]) -> bool:
            for (key, device), value in figures.items():
                families[key].add_shared(domain.labels, value, device)
            return bool(figures)

        freshness = self.facts.fresh(show)
        return [*families.values(), *freshness]


def _parse(stats: Mapping[str, Any]) -> dict[Figure, float]:
    return {
        (key, stats.get(f"block.{index}.name", "")): stats[f"block.{index}.{key}"] * unit
        for index in devices(stats, "block")
        for key, (_, unit) in _METRICS.items()
        if f"block.{index}.{key}" in stats
    }
