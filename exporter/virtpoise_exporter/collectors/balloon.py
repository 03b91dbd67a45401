"""Memory as the guest sees it, for domains whose XML asks for it: ``<memballoon><stats period='10'/>``."""

from collections.abc import Mapping
from typing import Any

import libvirt

from virtpoise_exporter import metrics
from virtpoise_exporter.clock import SYSTEM, Clock
from virtpoise_exporter.collectors.slow import SlowFacts
from virtpoise_exporter.collectors.staleness import Figure
from virtpoise_exporter.exposition import Family
from virtpoise_exporter.virt.link import Link
from virtpoise_exporter.virt.model import Domain
from virtpoise_exporter.virt.stats import Ask

GROUPS = libvirt.VIR_DOMAIN_STATS_BALLOON
_KIB = 1024
# by libvirt's key: the metric, and by how much libvirt's figure is multiplied
_METRICS = {
    "usable": (metrics.DOMAIN_MEMORY_USABLE, _KIB),
    "unused": (metrics.DOMAIN_MEMORY_UNUSED, _KIB),
    "available": (metrics.DOMAIN_MEMORY_AVAILABLE, _KIB),
    "disk_caches": (metrics.DOMAIN_MEMORY_CACHES, _KIB),
    "swap_in": (metrics.DOMAIN_MEMORY_SWAP_IN, _KIB),
    "swap_out": (metrics.DOMAIN_MEMORY_SWAP_OUT, _KIB),
    "major_fault": (metrics.DOMAIN_MEMORY_MAJOR_FAULTS, 1),
    "minor_fault": (metrics.DOMAIN_MEMORY_MINOR_FAULTS, 1),
}
_UPDATED = ("last-update", "")


class BalloonCollector:
    """Memory of domains whose balloon keeps statistics.

    QEMU repeats the guest's last figures, also when the guest hangs or has stopped its driver. So the age of the
    guest's own figures decides whether they are shown.
    """

    name = "balloon"

    def __init__(self, link: Link, ask: Ask, clock: Clock = SYSTEM) -> None:
        """Collect balloon statistics. ``ask`` returns libvirt's statistics of the group ``GROUPS``."""
        self._clock = clock
        self.facts = SlowFacts(
            self.name, link, ask, lambda domain: domain.facts.balloon_period_seconds > 0, _parse, clock
        )

    def start(self) -> None:
        """Starts to ask libvirt in the background."""
        self.facts.start()

    def collect(self, _seconds: float) -> list[Family]:
        families = {key: Family(metric) for key, (metric, _) in _METRICS.items()}
        now = self._clock.now()

        def show(domain: Domain, figures: Mapping[Figure, float]) -> bool:
            lasts = 2 * self.facts.pace + domain.facts.balloon_period_seconds
            if not figures or now - figures[_UPDATED] > lasts:
                return False
            for key, family in families.items():
                if (key, "") in figures:
                    family.add_shared(domain.labels, figures[key, ""])
            return True

        freshness = self.facts.fresh(show)
        return [*families.values(), *freshness]


def _parse(stats: Mapping[str, Any]) -> dict[Figure, float]:
    """The guest's figures, and Unix seconds of their last update (0 if the guest never reported any)."""
    figures: dict[Figure, float] = {
        (key, ""): stats[f"balloon.{key}"] * unit for key, (_, unit) in _METRICS.items() if f"balloon.{key}" in stats
    }
    updated = stats.get("balloon.last-update")
    return {**figures, _UPDATED: updated} if figures and updated else {}
