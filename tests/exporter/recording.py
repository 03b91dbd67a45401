"""A recorded host: its /proc and /sys, libvirt's run folder, and libvirt's answers."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from virtpoise_exporter.virt.link import Link
from virtpoise_exporter.virt.model import Domain, Inventory
from virtpoise_exporter.virt.stats import Answer

RECORDED = Path(__file__).parent / "recorded"


class RecordedLink(Link):
    """Stands in for the connection to libvirt, with a recorded list of domains. It is never started."""

    def __init__(self, listed: Inventory | None) -> None:
        super().__init__("recorded:///", lambda _domains: None)
        self.listed = listed
        self.up = True

    def last_inventory(self) -> Inventory | None:
        return self.listed

    def inventory(self) -> Inventory | None:
        return self.listed if self.up else None


@dataclass(frozen=True)
class Recorded:
    procfs: Path
    sysfs: Path
    run: Path
    inventory: Inventory
    stats: dict[str, dict[str, Any]]

    def domain(self, name: str) -> Domain:
        return next(domain for domain in self.inventory.domains if domain.name == name)

    def ask(self, domains: Sequence[Domain], _seconds: float) -> Answer:
        """All guests have told of their memory just now."""
        now = {"balloon.last-update": int(time.time())}
        return Answer({domain.uuid: {**self.stats[domain.uuid], **now} for domain in domains})
