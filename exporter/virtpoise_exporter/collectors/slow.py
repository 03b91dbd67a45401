"""Facts that only QEMU knows: asked for beside the scrape path, at their own pace, and shown while they are fresh."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from virtpoise_exporter import metrics
from virtpoise_exporter.collectors.staleness import Staleness
from virtpoise_exporter.exposition import Family
from virtpoise_exporter.log import log
from virtpoise_exporter.virt.link import Link
from virtpoise_exporter.virt.model import Domain
from virtpoise_exporter.virt.stats import Ask

LEAST_PACE_SECONDS: Final = 15.0
RETRY_SECONDS: Final = 1.0
PACE_PER_SECOND: Final = 50  # asking takes at most 2 % of the time, however many domains there are


class SlowFacts:
    """Asks again and again for those domains of which there is something to know. Fresh is what is at most twice as old as
    the pace at which it is asked for."""

    def __init__(self, name: str, link: Link, ask: Ask, concerns: Callable[[Domain], bool]) -> None:
        """`ask` asks for one group of libvirt's statistics; `concerns` says of which domains."""
        self._name = name
        self._link = link
        self._ask = ask
        self._concerns = concerns
        self._pace = LEAST_PACE_SECONDS
        self._asked_at = float("-inf")
        self._answers: Mapping[tuple[str, int], Mapping[str, Any]] = {}
        self._staleness = Staleness(name)

    def start(self) -> None:
        """Begins to ask in the background."""
        threading.Thread(target=self._run, name=self._name, daemon=True).start()

    def refresh(self) -> bool:
        """Asks once; False if libvirt is not there to be asked."""
        inventory = self._link.inventory()
        if inventory is None:
            return False
        began = time.monotonic()
        domains = self._concerned(inventory.domains)
        answer = self._ask(domains, LEAST_PACE_SECONDS)
        self._pace = max(LEAST_PACE_SECONDS, PACE_PER_SECOND * (time.monotonic() - began))
        self._answers = {(domain.uuid, domain.id): answer.get(domain.uuid, {}) for domain in domains}
        self._asked_at = began
        return True

    def fresh(self, show: Callable[[Domain, Mapping[str, Any]], bool]) -> list[Family]:
        """Calls `show` with each domain and libvirt's keys of it, fresh or none. It says whether it found what it wanted;
        the families returned count those of which it did not, and tell how old the others are."""
        inventory, now = self._link.last_inventory(), time.monotonic()
        domains = self._concerned(inventory.domains) if inventory else []
        if not domains:
            return []
        asked_at, answers = self._asked_at, self._answers
        age = Family(metrics.DATA_AGE)
        if now - asked_at > 2 * self._pace:
            answers = {}
        else:
            age.add(now - asked_at, self._name)
        found = {domain.uuid for domain in domains if show(domain, answers.get((domain.uuid, domain.id), {}))}
        return [age, *self._staleness.judge(domains, found, now)]

    def _concerned(self, domains: Sequence[Domain]) -> list[Domain]:
        return [domain for domain in domains if domain.active and self._concerns(domain)]

    def _run(self) -> None:
        while True:
            try:
                asked = self.refresh()
            except Exception:  # the next round tries again
                log.exception("the facts of collector %s cannot be read", self._name)
                asked = True
            time.sleep(self._pace if asked else RETRY_SECONDS)
