"""Facts that only QEMU knows. They are read in the background, at their own pace, and shown while they are fresh."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from virtpoise_exporter import metrics
from virtpoise_exporter.clock import Clock
from virtpoise_exporter.collectors.staleness import Figure, Lives, Staleness
from virtpoise_exporter.exposition import Family
from virtpoise_exporter.log import log
from virtpoise_exporter.virt.link import Link
from virtpoise_exporter.virt.model import Domain
from virtpoise_exporter.virt.stats import Ask

_LEAST_PACE_SECONDS = 15.0
_MOST_PACE_SECONDS = 60.0
RETRY_SECONDS = 1.0
_PACE_PER_SECOND = 50  # a round may take 2 % of the time, but rounds are at most a minute apart


@dataclass(frozen=True, slots=True)
class _Round:
    """The answers of one round. ``short`` holds the uuids of domains that reported less than before."""

    asked_at: float = float("-inf")
    reported: Mapping[tuple[str, int], Mapping[Figure, float]] = field(default_factory=dict)
    short: frozenset[str] = frozenset()


class SlowFacts:
    """Keeps the slow facts of the domains that have any. Facts are fresh up to twice the pace, in seconds."""

    def __init__(
        self,
        name: str,
        link: Link,
        ask: Ask,
        concerns: Callable[[Domain], bool],
        parse: Callable[[Mapping[str, Any]], Mapping[Figure, float]],
        clock: Clock,
    ) -> None:
        """Collect statistics that libvirt is slow to give.

        ``ask`` asks libvirt for one group of statistics. ``concerns`` selects the domains that have such facts.
        ``parse`` takes the figures out of a domain's keys.
        """
        self._name = name
        self._link = link
        self._ask = ask
        self._concerns = concerns
        self._parse = parse
        self._clock = clock
        self._last = _Round()
        self._lives = Lives()
        self._staleness = Staleness(name)
        self.pace = _LEAST_PACE_SECONDS

    def start(self) -> None:
        """Starts to ask libvirt in the background."""
        threading.Thread(target=self._run, name=self._name, daemon=True).start()

    def refresh(self) -> float:
        """Asks once, if libvirt is up. Returns the seconds to wait until the next round."""
        inventory = self._link.inventory()
        if inventory is None:
            return RETRY_SECONDS
        began = self._clock.monotonic()
        domains = self._concerned(inventory.domains)
        answer = self._ask(domains, _LEAST_PACE_SECONDS)
        reported = {uuid: self._parse(stats) for uuid, stats in answer.stats.items()}
        short = self._lives.short(domains, reported)
        self.pace = min(_MOST_PACE_SECONDS, max(_LEAST_PACE_SECONDS, _PACE_PER_SECOND * answer.seconds))
        self._last = _Round(
            began, {(domain.uuid, domain.id): reported.get(domain.uuid, {}) for domain in domains}, frozenset(short)
        )
        return _LEAST_PACE_SECONDS if short or not answer.complete else self.pace

    def fresh(self, show: Callable[[Domain, Mapping[Figure, float]], bool]) -> list[Family]:
        """Families with the age of the facts and the domains whose facts are missing.

        Calls ``show`` for each domain with its fresh figures, or with none. ``show`` returns whether it showed all.
        """
        inventory, now = self._link.last_inventory(), self._clock.monotonic()
        domains = self._concerned(inventory.domains) if inventory else []
        if not domains:
            return []
        last = self._last
        age = Family(metrics.DATA_AGE)
        if now - last.asked_at > 2 * self.pace:
            last = _Round()
        else:
            age.add(now - last.asked_at, self._name)
        found = {domain.uuid for domain in domains if show(domain, last.reported.get((domain.uuid, domain.id), {}))}
        return [age, *self._staleness.judge(domains, found - last.short, now)]

    def _concerned(self, domains: Sequence[Domain]) -> list[Domain]:
        return [domain for domain in domains if domain.active and self._concerns(domain)]

    def _run(self) -> None:
        while True:
            try:
                seconds = self.refresh()
            except Exception:  # the next round tries again
                log.exception("collector %s cannot read its facts", self._name)
                seconds = _LEAST_PACE_SECONDS
            time.sleep(seconds)
