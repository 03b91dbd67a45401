"""``together``, affinity: the domains are on one host."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from virtpoise_balancer.model import Domain, Reason
from virtpoise_balancer.rules.base import SOFT, GroupKind, Strays
from virtpoise_balancer.rules.kinds.only_on import ONLY_ON


class Together(GroupKind):
    name = "together"
    reason = Reason.RULE_TOGETHER
    wording = "an affinity rule ties it to a domain that cannot move"
    attracts = True
    for_one = ONLY_ON

    def allows(self, there: int, arriving: int = 1) -> bool:
        return True

    def kept(self, there: int, size: int) -> bool:
        return there == size - 1

    def liking(self, there: int, arriving: int, *, hard: bool) -> float:
        return SOFT if there else 0.0

    def violated(self, at: Mapping[int, Sequence[Domain]]) -> Iterator[Strays]:
        """All that are not on the host with most of their memory; the first by name where it is equal."""
        if len(at) > 1:
            anchor = max(at, key=lambda host: (sum(domain.memory_bytes for domain in at[host]), -host))
            yield Strays(
                tuple(one for host, domains in sorted(at.items()) if host != anchor for one in domains), anchor
            )


TOGETHER = Together()
