"""What libvirt's facts mean for a snapshot: they are put into it, so that it alone decides the plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from virtpoise_balancer.model import Domain, Facts, Host, Snapshot


def with_facts(snapshot: Snapshot, facts: Facts) -> Snapshot:
    """The snapshot with what hosts lack, what domains require, what holds and binds them, and what has to be copied of
    them.

    Of what nothing is known it keeps what it has.
    """
    if not (facts.lacks or facts.holds or facts.copies or facts.nodes or facts.room):
        return snapshot
    of_host: Callable[[Host], Host] = partial(_of_host, facts=facts)
    of_domain: Callable[[Domain], Domain] = partial(_of_domain, facts=facts)
    return replace(snapshot, hosts=tuple(map(of_host, snapshot.hosts)), domains=tuple(map(of_domain, snapshot.domains)))


def _of_host(host: Host, facts: Facts) -> Host:
    lacks, room = facts.lacks.get(host.name), facts.room.get(host.name)
    if lacks is None and room is None:
        return host
    return replace(host, lacks=lacks or host.lacks, copy_room=room or host.copy_room)


def _of_domain(domain: Domain, facts: Facts) -> Domain:
    requires, holds = facts.requires.get(domain.uuid), facts.holds.get(domain.uuid)
    copies, nodes = facts.copies.get(domain.uuid), facts.nodes.get(domain.uuid)
    if requires is None and holds is None and copies is None and nodes is None:
        return domain
    return replace(
        domain,
        requires=requires or domain.requires,
        holds=holds or domain.holds,
        copies=copies or domain.copies,
        memory_nodes=nodes or domain.memory_nodes,
    )
