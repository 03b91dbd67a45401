"""Which domains a collector had to leave out, and since when."""

from collections.abc import Collection, Sequence

from virtpoise_exporter import metrics
from virtpoise_exporter.exposition import Family, escape
from virtpoise_exporter.virt.model import Domain


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
                ages.samples.append((f'{domain.block},collector="{escape(self._collector)}"', now - fresh_at[life]))
        self._fresh_at = fresh_at
        count.add(len(ages.samples), self._collector)
        return [count, ages]
