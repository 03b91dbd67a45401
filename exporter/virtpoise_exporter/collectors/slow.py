"""Facts that only QEMU knows: asked for beside the scrape path, at their own pace, and shown while they are fresh."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from virtpoise_exporter import metrics
from virtpoise_exporter.collectors.staleness import Figure, Lives, Staleness
from virtpoise_exporter.exposition import Family
from virtpoise_exporter.log import log
from virtpoise_exporter.virt.link import Link
from virtpoise_exporter.virt.model import Domain
from virtpoise_exporter.virt.stats import Ask

LEAST_PACE_SECONDS: Final = 15.0
MOST_PACE_SECONDS: Final = 60.0
RETRY_SECONDS: Final = 1.0
PACE_PER_SECOND: Final = 50  # asking takes at most 2 % of the time, unless that would be less often than once a minute


@dataclass(frozen=True, slots=True)
class _Round:
    """What was told when everybody was asked; `short` are the uuids of those who did not tell all that they told before."""

    asked_at: float = float("-inf")
    told: Mapping[tuple[str, int], Mapping[Figure, float]] = field(default_factory=dict)
    short: frozenset[str] = frozenset()


class SlowFacts:
    """Asks again and again for those domains of which there is something to know. Fresh is what is at most twice as old as
    the pace at which it is asked for."""

    def __init__(
        self,
        name: str,
        link: Link,
        ask: Ask,
        concerns: Callable[[Domain], bool],
        parse: Callable[[Mapping[str, Any]], Mapping[Figure, float]],
    ) -> None:
        """`ask` asks for one group of libvirt's statistics; `concerns` says of which domains; `parse` finds in libvirt's keys
        of a domain what there is to show."""
        self._name = name
        self._link = link
        self._ask = ask
        self._concerns = concerns
        self._parse = parse
        self._last = _Round()
        self._lives = Lives()
        self._staleness = Staleness(name)
        self.pace = LEAST_PACE_SECONDS

    def start(self) -> None:
        """Begins to ask in the background."""
        threading.Thread(target=self._run, name=self._name, daemon=True).start()

    def refresh(self) -> float:
        """Asks once, if libvirt is there to be asked. Returns after how many seconds to ask again."""
        inventory = self._link.inventory()
        if inventory is None:
            return RETRY_SECONDS
        began = time.monotonic()
        domains = self._concerned(inventory.domains)
        answer = self._ask(domains, LEAST_PACE_SECONDS)
        told = {uuid: self._parse(stats) for uuid, stats in answer.stats.items()}
        short = self._lives.short(domains, told)
        self.pace = min(MOST_PACE_SECONDS, max(LEAST_PACE_SECONDS, PACE_PER_SECOND * answer.seconds))
        self._last = _Round(
            began, {(domain.uuid, domain.id): told.get(domain.uuid, {}) for domain in domains}, frozenset(short)
        )
        return LEAST_PACE_SECONDS if short or not answer.complete else self.pace

    def fresh(self, show: Callable[[Domain, Mapping[Figure, float]], bool]) -> list[Family]:
        """Calls `show` with each domain and what it told, fresh or nothing. It says whether it found what it wanted; the
        families returned count those of which it did not, or not all, and tell how old the others are."""
        inventory, now = self._link.last_inventory(), time.monotonic()
        domains = self._concerned(inventory.domains) if inventory else []
        if not domains:
            return []
        last = self._last
        age = Family(metrics.DATA_AGE)
        if now - last.asked_at > 2 * self.pace:
            last = _Round()
        else:
            age.add(now - last.asked_at, self._name)
        found = {domain.uuid for domain in domains if show(domain, last.told.get((domain.uuid, domain.id), {}))}
        return [age, *self._staleness.judge(domains, found - last.short, now)]

    def _concerned(self, domains: Sequence[Domain]) -> list[Domain]:
        return [domain for domain in domains if domain.active and self._concerns(domain)]

    def _run(self) -> None:
        while True:
            try:
                seconds = self.refresh()
            except Exception:  # the next round tries again
                log.exception("the facts of collector %s cannot be read", self._name)
                seconds = LEAST_PACE_SECONDS
            time.sleep(seconds)
