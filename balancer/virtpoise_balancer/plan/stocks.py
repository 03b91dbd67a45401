"""What of a host is given out in fixed amounts: static huge pages, ordinary memory that it may promise, room for copies
of disks, and network cards that each domain has alone.

A *stock* is one kind of it. Nothing about it is measured or uncertain, and there is no level to relieve: either the
free rest of a stock suffices for what comes, or the host refuses it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import NamedTuple

import numpy as np

from virtpoise_balancer.analyse.demand import Floats
from virtpoise_balancer.model import Detail, Domain, DomainState, Host, HugePages, Policy, Reason


class Pages(NamedTuple):
    """Huge pages of one size on one of these NUMA nodes (ascending), in bytes; no nodes: on any."""

    page_bytes: int
    nodes: tuple[int, ...] = ()


class Room(NamedTuple):
    """The room for copies of disks in a folder, in bytes."""

    folder: str


class Cards(NamedTuple):
    """The network cards that a libvirt network gives to one domain each, by their number."""

    network: str


class Promised(NamedTuple):
    """The memory that the policy lets a host promise, in bytes."""


Stock = Pages | Room | Cards | Promised
PROMISED = Promised()
# More sets of NUMA nodes are not told apart.
_MOST_SETS = 64


@dataclass(frozen=True, slots=True)
class Stocks:
    """The stocks that a group's domains need. ``free``: by stock, what the hosts have free of it (hosts).

    What a host promised too much of is negative. Of what is not known nothing is free where that is a measurement
    (minus infinity), and enough where it is libvirt's word, since the host is asked again before a move.
    """

    free: Mapping[Stock, Floats]
    policy: Policy

    @classmethod
    def of(cls, hosts: Sequence[Host], domains: Sequence[Domain], policy: Policy) -> Stocks:
        """The stocks of these hosts, which are those of the domains."""
        free: dict[Stock, Floats] = {}
        if policy.overcommit is not None:
            free[PROMISED] = _unpromised(hosts, domains, policy.overcommit.memory_ratio)
        for pages in _sets(filter(attrgetter("hugepages"), domains)):
            free[pages] = np.array([_free_pages(host, pages) for host in hosts])
        for domain in filter(attrgetter("copies"), domains):
            for room in {Room(disk.folder) for disk in domain.copies} - free.keys():
                free[room] = np.array([host.copy_room.get(room.folder, math.inf) for host in hosts])
        for domain in filter(attrgetter("cards"), domains):
            for cards in {Cards(network) for network in domain.cards} - free.keys():
                free[cards] = np.array([host.cards_free.get(cards.network, math.inf) for host in hosts])
        return cls(free, policy)

    def taken_by(self, domains: Iterable[Domain]) -> Mapping[Stock, float]:
        """What the domains take of each stock; infinite where that is not known."""
        found: dict[Stock, float] = {}
        for domain in domains if self.free else ():
            for pages, memory in _of_pages(domain):
                for stock in self._counting(pages):
                    found[stock] = found.get(stock, 0) + memory
            for disk in domain.copies:
                room = Room(disk.folder)
                found[room] = found.get(room, 0) + disk.capacity_bytes
            for network, number in domain.cards.items():
                cards = Cards(network)
                found[cards] = found.get(cards, 0) + number
            if self.policy.overcommit is not None:
                found[PROMISED] = found.get(PROMISED, 0) + _promised(domain)
        return found

    def _counting(self, taken: Pages) -> Iterator[Pages]:
        """The stocks that hold all pages from which these may be taken."""
        for stock in self.free:
            if isinstance(stock, Pages) and stock.page_bytes == taken.page_bytes and _holds(stock.nodes, taken.nodes):
                yield stock


def _holds(these: Collection[int], nodes: Collection[int]) -> bool:
    """Whether all of ``nodes`` are among ``these``. No nodes: any."""
    return not these or (bool(nodes) and set(nodes) <= set(these))


def _of_pages(domain: Domain) -> Iterator[tuple[Pages, int]]:
    """The pages that a domain's memory has to be in, and how many bytes of it."""
    for pages in domain.hugepages:
        rest = pages.memory_bytes
        for cell in domain.memory_cells:
            memory = min(math.ceil(pages.memory_bytes * cell.share), rest)
            rest -= memory
            yield Pages(pages.page_bytes, cell.nodes), memory
        if rest > 0:
            yield Pages(pages.page_bytes, () if domain.memory_cells else domain.memory_nodes), rest


def _sets(domains: Iterable[Domain]) -> Collection[Pages]:
    """The sets of huge pages that must suffice: on any node, and on each set of nodes that memory is bound to.

    Where two such sets have a node in common, both together are one as well. With that, memory fits exactly when it
    fits into each set (Hall's theorem).
    """
    bound = {pages for domain in domains for pages, _ in _of_pages(domain)}
    found = {Pages(one.page_bytes) for one in bound} | bound
    due = sorted(bound)
    while due and len(found) < _MOST_SETS:
        one = due.pop()
        joined = {
            Pages(one.page_bytes, tuple(sorted({*one.nodes, *other.nodes})))
            for other in found
            if other.page_bytes == one.page_bytes and not set(one.nodes).isdisjoint(other.nodes)
        }
        due += sorted(joined - found)
        found |= joined
    return sorted(found)


def _free_pages(host: Host, wanted: Pages) -> float:
    """Where the node of pages is not known, it may be any."""
    if host.hugepages_free is None:
        return -math.inf
    return sum(pages.memory_bytes for pages in host.hugepages_free if _is_of(pages, wanted))


def _is_of(pages: HugePages, wanted: Pages) -> bool:
    return pages.page_bytes == wanted.page_bytes and (
        not wanted.nodes or pages.node is None or pages.node in wanted.nodes
    )


def _unpromised(hosts: Sequence[Host], domains: Iterable[Domain], ratio: float) -> Floats:
    """Minus infinity where what a host promised is not known."""
    own = np.array([max(host.memory_bytes - host.memory_reserved_bytes, 0) for host in hosts], dtype=np.float64)
    free = ratio * own
    index = {host.name: number for number, host in enumerate(hosts)}
    for domain in domains:
        if domain.state is not DomainState.SHUTOFF:
            free[index[domain.host]] -= _promised(domain)
    return free


def _promised(domain: Domain) -> float:
    return math.inf if (promised := domain.promised_bytes) is None else promised


def why_too_little(stock: Stock, need: float, left: float) -> tuple[Reason, Detail]:
    """Why a host whose stock has too little left does not take a domain, with the figures that are known."""
    if isinstance(stock, Cards):
        few = "a free network card" if need == 1 else f"{need:.0f} free network cards"
        return Reason.LACKS_NETWORK, {"needs": f"{few} of network {stock.network}"}
    figures: dict[str, int | str] = {}
    if math.isfinite(need):
        figures["need_bytes"] = int(need)
    if math.isfinite(left):
        figures["free_bytes"] = max(int(left), 0)
    if isinstance(stock, Room):
        return Reason.LACKS_STORAGE, {"needs": f"room for copies of disks at {stock.folder}", **figures}
    if isinstance(stock, Pages):
        figures = {"page_bytes": stock.page_bytes, **figures}
        if len(stock.nodes) == 1:
            figures["node"] = stock.nodes[0]
        elif stock.nodes:
            figures["nodes"] = ", ".join(map(str, stock.nodes))
        if math.isinf(left):
            figures["unknown"] = "its free huge pages are not known"
        return Reason.DESTINATION_HUGEPAGES, figures
    if math.isinf(need):
        figures["unknown"] = "its own memory is not known"
    elif math.isinf(left):
        figures["unknown"] = "the memory of a domain there is not known"
    return Reason.DESTINATION_OVERCOMMIT, figures
