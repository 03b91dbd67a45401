"""Bytes read and written by each disk. Only QEMU knows them, so they are asked for beside the scrape path."""

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import libvirt

from virtpoise_exporter import metrics
from virtpoise_exporter.collectors.staleness import Staleness
from virtpoise_exporter.exposition import Family, escape
from virtpoise_exporter.log import log
from virtpoise_exporter.virt.link import Link
from virtpoise_exporter.virt.model import Domain
from virtpoise_exporter.virt.stats import Ask

GROUPS: Final = libvirt.VIR_DOMAIN_STATS_BLOCK
LEAST_PACE_SECONDS: Final = 15.0
RETRY_SECONDS: Final = 1.0
PACE_PER_SECOND: Final = 50  # asking takes at most 2 % of the time, however many disks there are


class BlockCollector:
    """Shows the last counters while they are fresh, which is twice the pace they are asked at."""

    name = "block"

    def __init__(self, link: Link, ask: Ask) -> None:
        """`ask` gives libvirt's statistics of the group GROUPS."""
        self._link = link
        self._ask = ask
        self._last: tuple[float, Mapping[tuple[str, int], Mapping[str, tuple[int, int]]]] = (float("-inf"), {})
        self._pace = LEAST_PACE_SECONDS
        self._staleness = Staleness(self.name)

    def start(self) -> None:
        """Begins to ask in the background."""
        threading.Thread(target=self._run, name="block", daemon=True).start()

    def collect(self, _seconds: float) -> list[Family]:
        read, written, age = (
            Family(metrics.DOMAIN_BLOCK_READ),
            Family(metrics.DOMAIN_BLOCK_WRITTEN),
            Family(metrics.DATA_AGE),
        )
        inventory = self._link.last_inventory()
        with_disks = _with_disks(inventory.domains) if inventory else []
        if not with_disks:
            return []
        now = time.monotonic()
        asked_at, counters = self._last
        if now - asked_at > 2 * self._pace:
            counters = {}
        else:
            age.add(now - asked_at, self.name)
        fresh = set()
        for domain in with_disks:
            for device, (read_bytes, written_bytes) in counters.get(_life(domain), {}).items():
                fresh.add(domain.uuid)
                block = f'{domain.block},device="{escape(device)}"'
                read.samples.append((block, read_bytes))
                written.samples.append((block, written_bytes))
        return [read, written, age, *self._staleness.judge(with_disks, fresh, now)]

    def refresh(self) -> bool:
        """Asks for the counters once; False if libvirt is not there to be asked."""
        inventory = self._link.inventory()
        if inventory is None:
            return False
        began = time.monotonic()
        domains = _with_disks(inventory.domains)
        answer = self._ask(domains, LEAST_PACE_SECONDS)
        self._pace = max(LEAST_PACE_SECONDS, PACE_PER_SECOND * (time.monotonic() - began))
        self._last = (began, {_life(domain): block_bytes(answer.get(domain.uuid, {})) for domain in domains})
        return True

    def _run(self) -> None:
        while True:
            try:
                asked = self.refresh()
            except Exception:  # the next round tries again
                log.exception("the disks' counters cannot be read")
                asked = True
            time.sleep(self._pace if asked else RETRY_SECONDS)


def _with_disks(domains: Sequence[Domain]) -> list[Domain]:
    return [domain for domain in domains if domain.active and domain.facts.disks]


def _life(domain: Domain) -> tuple[str, int]:
    return domain.uuid, domain.id


def block_bytes(stats: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Bytes read and written of each disk from libvirt's keys; disks whose keys are missing are left out."""
    counters = {}
    for index in range(stats.get("block.count", 0)):
        name, read = stats.get(f"block.{index}.name"), stats.get(f"block.{index}.rd.bytes")
        written = stats.get(f"block.{index}.wr.bytes")
        if name and read is not None and written is not None:
            counters[name] = (read, written)
    return counters
