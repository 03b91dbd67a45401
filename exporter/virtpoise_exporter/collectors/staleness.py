"""Domains whose figures a collector had to leave out, wholly or in part, and since when."""

from collections.abc import Collection, Iterable, Mapping, Sequence

from virtpoise_exporter import metrics
from virtpoise_exporter.exposition import Family
from virtpoise_exporter.virt.model import Domain

Figure = tuple[str, str]
"""One figure of a domain: its name, and its device (empty for the domain itself)."""


class Lives:
    """Remembers the figures that each domain has had since its start.

    A figure that a busy domain no longer reports is missing, not zero. A figure that it never had is not missing: the
    memory of a guest without a balloon driver is an example.
    """

    def __init__(self) -> None:
        self._had: dict[tuple[str, int], frozenset[Figure]] = {}

    def short(self, domains: Iterable[Domain], reported: Mapping[str, Collection[Figure]]) -> set[str]:
        """The uuids of the ``domains`` that lack a figure they had before, of a device that they still have."""
        had, short = {}, set()
        for domain in domains:
            life, now = (domain.uuid, domain.id), frozenset(reported.get(domain.uuid, ()))
            missing = self._had.get(life, now) - now
            if missing:
                devices = {"", *domain.facts.disks, *(nic.device for nic in domain.facts.nics)}
                missing = frozenset(figure for figure in missing if figure[1] in devices)
            if missing:
                short.add(domain.uuid)
            had[life] = now | missing
        self._had = had
        return short


class Staleness:
    """Remembers when each domain's figures were last fresh. If they never were, the age counts from the first miss."""

    def __init__(self, collector: str) -> None:
        self._collector = collector
        self._fresh_at: dict[tuple[str, int], float] = {}

    def judge(self, expected: Sequence[Domain], fresh: Collection[str], now: float) -> list[Family]:
        """Families that count and name the ``expected`` domains whose uuid is not ``fresh``; ``now`` is monotonic."""
        count, ages = Family(metrics.STALE_DOMAINS), Family(metrics.DOMAIN_STALE)
        fresh_at = {}
        for domain in expected:
            life = (domain.uuid, domain.id)
            if domain.uuid in fresh:
                fresh_at[life] = now
            else:
                fresh_at[life] = self._fresh_at.get(life, now)
                ages.add_shared(domain.labels, now - fresh_at[life], self._collector)
        self._fresh_at = fresh_at
        count.add(len(ages.samples), self._collector)
        return [count, ages]
