"""Memory as the guest sees it, for domains whose XML asks for it: ``<memballoon><stats period='10'/>``."""

import time
from collections.abc import Mapping
from typing import Any

import libvirt

from virtpoise_exporter import metrics
from virtpoise_exporter.collectors.slow import SlowFacts
from virtpoise_exporter.collectors.staleness import Figure
from virtpoise_exporter.exposition import Family
from virtpoise_exporter.virt.link import Link
from virtpoise_exporter.virt.model import Domain
from virtpoise_exporter.virt.stats import Ask

GROUPS = libvirt.VIR_DOMAIN_STATS_BALLOON
_USABLE = ("usable", "")
_UPDATED = ("last-update", "")


class BalloonCollector:
    """Memory of domains whose balloon keeps statistics.

    QEMU repeats the guest's last figures, also when the guest hangs or has stopped its driver. So the age of the
    guest's own figures decides whether they are shown.
    """

    name = "balloon"

    def __init__(self, link: Link, ask: Ask) -> None:
        """``ask`` returns libvirt's statistics of the group ``GROUPS``."""
        self.facts = SlowFacts(self.name, link, ask, lambda domain: domain.facts.balloon_period_seconds > 0, _parse)

    def start(self) -> None:
        """Starts to ask libvirt in the background."""
        self.facts.start()

    def collect(self, _seconds: float) -> list[Family]:
        usable = Family(metrics.DOMAIN_MEMORY_USABLE)

        now = time.time()

        def show(domain: Domain, figures: Mapping[Figure, float]) -> bool:
            lasts = 2 * self.facts.pace + domain.facts.balloon_period_seconds
            if _USABLE not in figures or now - figures[_UPDATED] > lasts:
                return False
            usable.add_shared(domain.labels, figures[_USABLE])
            return True

        freshness = self.facts.fresh(show)
        return [usable, *freshness]


def _parse(stats: Mapping[str, Any]) -> dict[Figure, float]:
    """The figures in libvirt's keys: KiB, and Unix seconds of the last update (0 if the guest never reported)."""
    if "balloon.usable" not in stats or not stats.get("balloon.last-update"):
        return {}
    return {_USABLE: stats["balloon.usable"] * 1024, _UPDATED: stats["balloon.last-update"]}
