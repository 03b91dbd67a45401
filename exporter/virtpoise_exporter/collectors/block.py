"""Bytes read and written by each disk, and its size."""

from collections.abc import Mapping
from typing import Any, Final

import libvirt

from virtpoise_exporter import metrics
from virtpoise_exporter.collectors.slow import SlowFacts
from virtpoise_exporter.exposition import Family, escape
from virtpoise_exporter.virt.link import Link
from virtpoise_exporter.virt.model import Domain
from virtpoise_exporter.virt.stats import Ask

GROUPS: Final = libvirt.VIR_DOMAIN_STATS_BLOCK


class BlockCollector:
    """Of domains with disks."""

    name = "block"

    def __init__(self, link: Link, ask: Ask) -> None:
        """`ask` gives libvirt's statistics of the group GROUPS."""
        self.facts = SlowFacts(self.name, link, ask, lambda domain: bool(domain.facts.disks))

    def collect(self, _seconds: float) -> list[Family]:
        families = {
            "rd.bytes": Family(metrics.DOMAIN_BLOCK_READ),
            "wr.bytes": Family(metrics.DOMAIN_BLOCK_WRITTEN),
            "capacity": Family(metrics.DOMAIN_BLOCK_CAPACITY),
        }

        def show(domain: Domain, stats: Mapping[str, Any]) -> bool:
            found = False
            for index in range(stats.get("block.count", 0)):
                block = f'{domain.block},device="{escape(stats.get(f"block.{index}.name", ""))}"'
                for key, family in families.items():
                    value = stats.get(f"block.{index}.{key}")
                    if value is not None:
                        family.samples.append((block, value))
                        found = True
            return found

        freshness = self.facts.fresh(show)
        return [*families.values(), *freshness]
