"""Which domains a collector had to leave out, wholly or in part, and since when."""

from collections.abc import Collection, Iterable, Mapping, Sequence

from virtpoise_exporter import metrics
from virtpoise_exporter.exposition import Family
from virtpoise_exporter.virt.model import Domain

Figure = tuple[str, str]
"""Something that a domain can tell: what, and of which device; without a device, of the domain itself."""


class Lives:
    """Remembers which figures each domain has had in this life. What a busy domain does not tell is missing and not zero;
    what it never told, such as the memory of a guest without a balloon driver, is not missed."""

    def __init__(self) -> None:
        self._had: dict[tuple[str, int], frozenset[Figure]] = {}

    def short(self, domains: Iterable[Domain], told: Mapping[str, Collection[Figure]]) -> set[str]:
        """The uuids of those `domains` that do not tell now what they told before, of a device that they still have."""
        had, short = {}, set()
        for domain in domains:
            life, now = (domain.uuid, domain.id), frozenset(told.get(domain.uuid, ()))
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
    """Remembers when each domain's figures were fresh; a domain that never was counts from when it was first missed."""

    def __init__(self, collector: str) -> None:
        self._collector = collector
        self._fresh_at: dict[tuple[str, int], float] = {}

    def judge(self, expected: Sequence[Domain], fresh: Collection[str], now: float) -> list[Family]:
        """Families that count and name the `expected` domains whose uuid is not `fresh`; `now` is monotonic."""
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
