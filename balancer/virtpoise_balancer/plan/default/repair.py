"""Hard rules that are broken as things are: named always, repaired only where the policy says so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from virtpoise_balancer.model import Attempt, Domain, DomainState, Problem, Reason, Refusal, RuleKind
from virtpoise_balancer.plan.default.candidates import Item, movable
from virtpoise_balancer.plan.default.group import Group
from virtpoise_balancer.plan.default.trial import Board, Step


@dataclass(frozen=True, slots=True)
class Fault:
    """A broken rule: ``domains`` that are where they should not be; ``anchor``: the only host they may go to (keep together)."""

    rule: str
    kind: RuleKind
    domains: tuple[Domain, ...]
    anchor: int | None = None


def faults(board: Board) -> list[Fault]:
    """The hard rules that are broken after the steps so far. Domains between two hosts are left out."""
    rules = board.group.rules
    if not rules.ties_of and not rules.bonds:
        return []
    bound = {
        domain.uuid: domain
        for domain in board.group.snapshot.domains
        if (domain.uuid in rules.ties_of or domain.uuid in rules.bonds_of)
        and domain.state is not DomainState.SHUTOFF
        and domain.migrating_to is None
    }
    found: list[Fault] = []
    for uuid in sorted(rules.ties_of, key=lambda uuid: (bound[uuid].name if uuid in bound else "", uuid)):
        if uuid in bound:
            tie = rules.broken_tie(uuid, board.host_of(bound[uuid]))
            if tie:
                found.append(Fault(tie.name, tie.kind, (bound[uuid],)))
    for bond in rules.bonds:
        if not bond.hard:
            continue
        at: dict[int, list[Domain]] = {}
        for domain in sorted((bound[u] for u in bond.members if u in bound), key=lambda d: (d.memory_bytes, d.name)):
            at.setdefault(board.host_of(domain), []).append(domain)
        if bond.kind is RuleKind.APART:
            # All but the one that is dearest to move must leave.
            found += [Fault(bond.name, bond.kind, tuple(ds[:-1])) for _, ds in sorted(at.items()) if len(ds) > 1]
        elif len(at) > 1:
            anchor = max(at, key=lambda host: (sum(d.memory_bytes for d in at[host]), -host))
            strays = tuple(d for host, ds in sorted(at.items()) if host != anchor for d in ds)
            found.append(Fault(bond.name, bond.kind, strays, anchor))
    return found


def refusals(board: Board, found: Sequence[Fault]) -> list[Refusal]:
    """One for each domain that is where a rule does not want it."""
    hosts = board.group.hosts
    return [
        Refusal(
            domain=domain.name,
            uuid=domain.uuid,
            host=hosts[board.host_of(domain)].name,
            reason=Reason.RULE_BROKEN,
            detail={"rule": fault.rule, "kind": fault.kind},
        )
        for fault in found
        for domain in fault.domains
    ]


def contradictions(group: Group) -> list[Refusal]:
    """One for each domain whose hard rules cannot all be kept, wherever the domains are."""
    rules = group.rules
    told = {**rules.crowded, **rules.conflicts}
    if not told:
        return []
    return [
        Refusal(domain=d.name, uuid=d.uuid, host=d.host, reason=Reason.RULE_CONFLICT, detail={"conflict": told[d.uuid]})
        for d in sorted(group.snapshot.domains, key=lambda d: (d.name, d.uuid))
        if d.uuid in told
    ]


def repair(board: Board, found: Sequence[Fault]) -> list[Attempt]:
    """Move what is where it should not be, where that is possible; one attempt a fault of which anything is moved.

    One that nothing can be done about is no attempt: it would be made again in every cycle. It stays named as a broken rule.
    """
    attempts = []
    for fault in found:
        moved = [domain for domain in fault.domains if _move(board, domain, fault)]
        if moved:
            solved = len(moved) == len(fault.domains)
            attempts.append(Attempt(host=moved[0].host, problem=Problem.RULE, solved=solved))
    return attempts


def _move(board: Board, domain: Domain, fault: Fault) -> bool:
    group = board.group
    number = group.index[domain.host]
    if domain.uuid in board.moved or not group.hosts[number].known:
        return False
    item = _item_with(board, number, domain)
    if item is None:
        return False
    among = None
    if fault.anchor is not None:
        among = np.zeros(len(group.hosts), dtype=np.bool_)
        among[fault.anchor] = True
    destination = board.best(item, among)
    if destination is None:
        return False
    board.apply(Step(item, destination, f"keeps the rule {fault.rule}"))
    return True


def _item_with(board: Board, number: int, domain: Domain) -> Item | None:
    items = movable(board.group, number, least_gain=False).items
    return next((item for item in items if any(one.uuid == domain.uuid for one in item.domains)), None)
