"""A recorded host: its /proc and /sys, libvirt's run folder, and what libvirt said."""

import json
import time
from dataclasses import replace

import psutil
import pytest

from exporter.recording import RECORDED, Recorded, RecordedLink
from virtpoise_exporter.virt.model import Domain, HostFacts, Inventory
from virtpoise_exporter.virt.xml import domain_facts, network_forward


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
    """libvirt has not given one domain's XML for half a minute."""
    now, arriving = time.monotonic(), recorded.domain("arriving")
    return RecordedLink(replace(recorded.inventory, taken_at=now, facts_from={arriving.uuid: now - 30}))


@pytest.fixture(autouse=True)
def _recorded_psutil(recorded: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(recorded.procfs), raising=False)
