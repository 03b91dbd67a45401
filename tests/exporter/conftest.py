"""A recorded host: its /proc and /sys, libvirt's run folder, and what libvirt said."""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from virtpoise_exporter.virt.model import Domain, HostFacts, Inventory
from virtpoise_exporter.virt.stats import Answer
from virtpoise_exporter.virt.xml import domain_facts, network_forward

sys.path.insert(0, str(Path(__file__).parent))  # so that tests can `import exporter_watch`

RECORDED = Path(__file__).parent / "recorded"


@dataclass
class RecordedLink:
    """Stands where the connection to libvirt stands, with a list that was recorded."""

    listed: Inventory | None
    up: bool = True

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


@pytest.fixture(scope="session")
def recorded() -> Recorded:
    content = json.loads((RECORDED / "libvirt.json").read_text())
    domains = tuple(
        Domain(
            uuid=entry["uuid"],
            name=entry["name"],
            id=entry["id"],
            state=entry["state"],
            reason=entry["reason"],
            facts=domain_facts(entry["xml"]),
        )
        for entry in content["domains"]
    )
    networks = {name: network_forward(xml) for name, xml in content["networks"].items()}
    return Recorded(
        procfs=RECORDED / "proc",
        sysfs=RECORDED / "sys",
        run=RECORDED / "run",
        inventory=Inventory(HostFacts(**content["host"]), domains, networks, time.monotonic()),
        stats={entry["uuid"]: entry["stats"] for entry in content["domains"]},
    )


@pytest.fixture
def link(recorded: Recorded) -> RecordedLink:
    return RecordedLink(replace(recorded.inventory, taken_at=time.monotonic()))


@pytest.fixture(autouse=True)
def _recorded_psutil(recorded: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(recorded.procfs), raising=False)
