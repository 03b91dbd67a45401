"""What libvirt's facts mean for a snapshot: they are put into it, so that it alone decides the plan."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial

from virtpoise_balancer.model import Domain, Facts, Host, Move, Snapshot


def with_facts(snapshot: Snapshot, facts: Facts) -> Snapshot:
    """The snapshot with what hosts lack, what domains require, what holds and binds them, and what has to be copied of
    them.

    Of what nothing is known it keeps what it has.
    """
    if not any((facts.lacks, facts.holds, facts.copies, facts.nodes, facts.cells, facts.room, facts.cards)):
        return snapshot
    of_host: Callable[[Host], Host] = partial(_of_host, facts=facts)
    of_domain: Callable[[Domain], Domain] = partial(_of_domain, facts=facts)
    return replace(snapshot, hosts=tuple(map(of_host, snapshot.hosts)), domains=tuple(map(of_domain, snapshot.domains)))


def refuse(facts: Facts, moves: Collection[Move], before: Facts) -> bool:
    """Whether libvirt would refuse one of the moves, the others being made as well, or may: its domain is bound to
    other NUMA nodes than the plan, which knew the facts of ``before``, has counted with.
    """
    if any(
        facts.forbid(move.uuid, move.destination, move.copies)
        or facts.nodes.get(move.uuid) != before.nodes.get(move.uuid)
        or facts.cells.get(move.uuid) != before.cells.get(move.uuid)
        for move in moves
    ):
        return True
    room: Counter[tuple[str, str]] = Counter()
    cards: Counter[tuple[str, str]] = Counter()
    for move in moves:
        for disk in move.copies:
            room[move.destination, disk.folder] += disk.capacity_bytes
        for network, number in facts.cards.get(move.uuid, {}).items():
            cards[move.destination, network] += number
    return _too_much(room, facts.room) or _too_much(cards, facts.cards_free)


def _too_much(taken: Mapping[tuple[str, str], int], free: Mapping[str, Mapping[str, int]]) -> bool:
    """Whether more is taken of a host's stock than is free, where that is known."""
    return any(number > free.get(host, {}).get(name, math.inf) for (host, name), number in taken.items())


def _of_host(host: Host, facts: Facts) -> Host:
    lacks, room, cards = facts.lacks.get(host.name), facts.room.get(host.name), facts.cards_free.get(host.name)
    if lacks is None and room is None and cards is None:
        return host
    return replace(
        host, lacks=lacks or host.lacks, copy_room=room or host.copy_room, cards_free=cards or host.cards_free
    )


def _of_domain(domain: Domain, facts: Facts) -> Domain:
    requires, holds = facts.requires.get(domain.uuid), facts.holds.get(domain.uuid)
    copies, nodes = facts.copies.get(domain.uuid), facts.nodes.get(domain.uuid)
    cells, cards = facts.cells.get(domain.uuid), facts.cards.get(domain.uuid)
    if not any((requires, holds, copies, nodes, cells, cards)):
        return domain
    return replace(
        domain,
        requires=requires or domain.requires,
        holds=holds or domain.holds,
        copies=copies or domain.copies,
        memory_nodes=nodes or domain.memory_nodes,
        memory_cells=cells or domain.memory_cells,
        cards=cards or domain.cards,
    )
