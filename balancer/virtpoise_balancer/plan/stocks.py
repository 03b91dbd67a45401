"""Memory of a host that is given out in fixed amounts: static huge pages, and the ordinary memory that it may promise.

A *stock* is one kind of it: the huge pages of one size, or ``PROMISED``. Nothing about it is measured or uncertain, and
there is no level to relieve: either the free rest of a stock suffices for what comes, or the host refuses it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from operator import attrgetter

import numpy as np

from virtpoise_balancer.analyse.demand import Floats
from virtpoise_balancer.model import Detail, Domain, DomainState, Host, Policy, Reason

# The size of a page in bytes, or ``PROMISED``.
Stock = int
# The memory that the policy lets a host promise. No page has this size.
PROMISED: Stock = 0


def taken_by(domains: Iterable[Domain], policy: Policy) -> Mapping[Stock, float]:
    """What the domains take of each stock, in bytes; infinite where that is not known."""
    found: dict[Stock, float] = {}
    for domain in domains:
        for pages in domain.hugepages:
            found[pages.page_bytes] = found.get(pages.page_bytes, 0) + pages.memory_bytes
        if policy.overcommit is not None:
            found[PROMISED] = found.get(PROMISED, 0) + _promised(domain)
    return found


def free(hosts: Sequence[Host], domains: Sequence[Domain], policy: Policy) -> dict[Stock, Floats]:
    """By stock that a domain needs, what the hosts have free of it (hosts), in bytes; negative: they promised more.

    Minus infinity where what a host promised is not known.
    """
    rest: dict[Stock, Floats] = {}
    if policy.overcommit is not None:
        own = np.array([max(host.memory_bytes - host.memory_reserved_bytes, 0) for host in hosts], dtype=np.float64)
        rest[PROMISED] = policy.overcommit.memory_ratio * own
        index = {host.name: number for number, host in enumerate(hosts)}
        for domain in domains:
            if domain.state is not DomainState.SHUTOFF:
                rest[PROMISED][index[domain.host]] -= _promised(domain)
    for pages in chain.from_iterable(filter(None, map(attrgetter("hugepages"), domains))):
        rest.setdefault(pages.page_bytes, np.zeros(len(hosts)))
    for number, host in enumerate(hosts):
        for pages in host.hugepages_free:
            if pages.page_bytes in rest:
                rest[pages.page_bytes][number] += pages.memory_bytes
    return rest


def _promised(domain: Domain) -> float:
    return math.inf if (promised := domain.promised_bytes) is None else promised


def why_too_little(stock: Stock, need: float, left: float) -> tuple[Reason, Detail]:
    """Why a host whose stock has too little left does not take a domain, with the figures in bytes that are known."""
    figures: dict[str, int | str] = {}
    if math.isfinite(need):
        figures["need_bytes"] = int(need)
    if math.isfinite(left):
        figures["free_bytes"] = max(int(left), 0)
    if stock != PROMISED:
        return Reason.DESTINATION_HUGEPAGES, {"page_bytes": stock, **figures}
    if math.isinf(need):
        figures["unknown"] = "its own memory is not known"
    elif math.isinf(left):
        figures["unknown"] = "the memory of a domain there is not known"
    return Reason.DESTINATION_OVERCOMMIT, figures
