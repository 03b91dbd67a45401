"""What of a host is given out in fixed amounts: static huge pages, ordinary memory that it may promise, and room for
copies of disks.

A *stock* is one kind of it: the huge pages of one size, those of one NUMA node, a folder, or ``PROMISED``. Nothing
about it is measured or uncertain, and there is no level to relieve: either the free rest of a stock suffices for what
comes, or the host refuses it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import attrgetter

import numpy as np

from virtpoise_balancer.analyse.demand import Floats
from virtpoise_balancer.model import Detail, Domain, DomainState, Host, HugePages, Policy, Reason

# The size of a page in bytes, such a size with the number of a NUMA node, a folder, or ``PROMISED``. A node's pages are
# in both.
Stock = int | tuple[int, int] | str
# The memory that the policy lets a host promise. No page has this size.
PROMISED: Stock = 0


def taken_by(domains: Iterable[Domain], policy: Policy) -> Mapping[Stock, float]:
    """What the domains take of each stock, in bytes; infinite where that is not known."""
    found: dict[Stock, float] = {}
    for domain in domains:
        for pages in domain.hugepages:
            for stock in _of_pages(domain, pages):
                found[stock] = found.get(stock, 0) + pages.memory_bytes
        for disk in domain.copies:
            found[disk.folder] = found.get(disk.folder, 0) + disk.capacity_bytes
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
    for domain in filter(attrgetter("hugepages"), domains):
        for pages in domain.hugepages:
            for stock in _of_pages(domain, pages):
                rest.setdefault(stock, np.zeros(len(hosts)))
    of_nodes = [stock for stock in rest if isinstance(stock, tuple)]
    for number, host in enumerate(hosts):
        for pages in host.hugepages_free:
            if pages.page_bytes in rest:
                rest[pages.page_bytes][number] += pages.memory_bytes
            for stock in of_nodes:  # where the node is not known, it may be any
                if stock[0] == pages.page_bytes and pages.node in (None, stock[1]):
                    rest[stock][number] += pages.memory_bytes
    for domain in filter(attrgetter("copies"), domains):
        for folder in {disk.folder for disk in domain.copies} - rest.keys():
            rest[folder] = np.array([host.copy_room.get(folder, math.inf) for host in hosts])
    return rest


def _of_pages(domain: Domain, pages: HugePages) -> Iterator[Stock]:
    """The stocks that a domain's huge pages are of. On which of several nodes they come to lie is not known."""
    yield pages.page_bytes
    if len(domain.memory_nodes) == 1:
        yield pages.page_bytes, domain.memory_nodes[0]


def _promised(domain: Domain) -> float:
    return math.inf if (promised := domain.promised_bytes) is None else promised


def why_too_little(stock: Stock, need: float, left: float) -> tuple[Reason, Detail]:
    """Why a host whose stock has too little left does not take a domain, with the figures in bytes that are known."""
    figures: dict[str, int | str] = {}
    if math.isfinite(need):
        figures["need_bytes"] = int(need)
    if math.isfinite(left):
        figures["free_bytes"] = max(int(left), 0)
    if isinstance(stock, str):
        return Reason.LACKS_STORAGE, {"needs": f"room for copies of disks at {stock}", **figures}
    if isinstance(stock, tuple):
        return Reason.DESTINATION_HUGEPAGES, {"page_bytes": stock[0], "node": stock[1], **figures}
    if stock != PROMISED:
        return Reason.DESTINATION_HUGEPAGES, {"page_bytes": stock, **figures}
    if math.isinf(need):
        figures["unknown"] = "its own memory is not known"
    elif math.isinf(left):
        figures["unknown"] = "the memory of a domain there is not known"
    return Reason.DESTINATION_OVERCOMMIT, figures
