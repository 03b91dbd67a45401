"""Memory as the guest sees it. Only guests tell it whose balloon is asked to: `<memballoon><stats period='10'/>`."""

from collections.abc import Mapping
from typing import Any, Final

import libvirt

from virtpoise_exporter import metrics
from virtpoise_exporter.collectors.slow import SlowFacts
from virtpoise_exporter.exposition import Family
from virtpoise_exporter.virt.link import Link
from virtpoise_exporter.virt.model import Domain
from virtpoise_exporter.virt.stats import Ask

GROUPS: Final = libvirt.VIR_DOMAIN_STATS_BALLOON


class BalloonCollector:
    """Of domains whose balloon keeps statistics. libvirt gives KiB."""

    name = "balloon"

    def __init__(self, link: Link, ask: Ask) -> None:
        """`ask` gives libvirt's statistics of the group GROUPS."""
        self.facts = SlowFacts(self.name, link, ask, lambda domain: domain.facts.balloon_statistics)

    def collect(self, _seconds: float) -> list[Family]:
        usable = Family(metrics.DOMAIN_MEMORY_USABLE)

        def show(domain: Domain, stats: Mapping[str, Any]) -> bool:
            kibibytes = stats.get("balloon.usable")
            if kibibytes is None:
                return False
            usable.samples.append((domain.block, kibibytes * 1024))
            return True

        freshness = self.facts.fresh(show)
        return [usable, *freshness]
