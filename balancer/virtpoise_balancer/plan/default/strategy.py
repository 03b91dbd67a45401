"""The strategy `default`: clears all overloads together with the fewest and cheapest moves, by demand and its upper end.

Steps: find the problems (CPU, memory, uplinks), find the cheapest sets of domains whose leaving solves each, find where they fit, order
them so that every beginning is legal, and say for everything considered why it was or was not moved. Formulas: docs/scoring.md.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from virtpoise_balancer.analyse.demand import Mask
from virtpoise_balancer.model import (
    Attempt,
    Host,
    Move,
    Overload,
    Plan,
    Policy,
    PredictedLoads,
    Prediction,
    Problem,
    Reason,
    Refusal,
    Scores,
    Snapshot,
)
from virtpoise_balancer.plan.default.assign import relieve, relieve_partly
from virtpoise_balancer.plan.default.balance import balance
from virtpoise_balancer.plan.default.candidates import resting, transfer_bytes
from virtpoise_balancer.plan.default.group import CPU, MEMORY, RESOURCES, Group
from virtpoise_balancer.plan.default.predict_moves import Ledger
from virtpoise_balancer.plan.default.repair import contradictions, faults, repair
from virtpoise_balancer.plan.default.repair import refusals as broken_rules
from virtpoise_balancer.plan.default.source import Outcome, Source, outcomes
from virtpoise_balancer.plan.default.trial import Board, Step
from virtpoise_balancer.plan.default.why_not import nowhere
from virtpoise_balancer.plan.problems import find
from virtpoise_balancer.plan.summary import summarise
from virtpoise_balancer.plan.waves import needs, waves


def plan(snapshot: Snapshot, policy: Policy) -> Plan:
    group = Group(snapshot, policy)
    found = group.overloads
    problems = find(snapshot, policy, found)
    sources = sources_of(group, problems.attempt, found)
    board, sources = _solve(Board(group, sources, closed_hosts(group, found)), sources)
    ends = outcomes(sources, board.moved)
    attempts = [
        Attempt(host=source.residents.host.name, problem=source.problem, solved=outcome.solved)
        for source, outcome in zip(sources, ends, strict=True)
    ]
    refusals = list(problems.held)
    for source, outcome in zip(sources, ends, strict=True):
        refusals += _stayed(source, board, outcome)
    if policy.repair_rules:
        attempts += repair(board, faults(board))
    if policy.imbalance is not None and not problems.attempt:
        attempts += balance(board, policy.imbalance)
    if attempts:
        refusals += group.closed
    named = {(one.domain, one.host) for one in refusals if one.reason is Reason.RULE_CONFLICT}
    refusals += [one for one in contradictions(group) if (one.domain, one.host) not in named]
    broken = faults(board)
    refusals += broken_rules(board, broken)
    unrepaired = [fault.rule for fault in broken] if policy.repair_rules else []
    moves = _moves(board, {source.number: source for source in sources})
    return Plan(
        strategy="default",
        solved=not problems.held and not unrepaired and all(attempt.solved for attempt in attempts),
        summary=summarise(policy, found, attempts, moves, problems.held, unrepaired),
        overloaded=found,
        attempts=tuple(attempts),
        moves=tuple(moves),
        refusals=tuple(refusals),
        scores=_scores(group, board, sources),
    )


def closed_hosts(group: Group, found: Sequence[Overload]) -> Mask:
    """The hosts that take nothing: those whose state forbids it, and those that are overloaded themselves."""
    closed = np.zeros(len(group.hosts), dtype=np.bool_)
    closed[[group.index[str(refusal.host)] for refusal in group.closed]] = True
    closed[[group.index[overload.host] for overload in found]] = True
    return closed


def sources_of(group: Group, attempt: Iterable[tuple[Host, Problem]], found: Sequence[Overload]) -> list[Source]:
    overloads_of: dict[str, list[Overload]] = defaultdict(list)
    for overload in found:
        overloads_of[overload.host].append(overload)
    hosts = [(group.index[host.name], host.name, problem) for host, problem in attempt]
    group.look(number for number, _, _ in hosts)
    return [_source_of(group, number, problem, overloads_of[name]) for number, name, problem in hosts]


def _source_of(group: Group, number: int, problem: Problem, overloads_of_it: Sequence[Overload]) -> Source:
    goals: dict[int, float] = {}
    if problem is Problem.OVERLOAD:
        for overload in overloads_of_it:
            resource = RESOURCES.index(overload.resource)
            goals[resource] = float(group.recovery[resource])
        if CPU in goals:
            # A host on its way up is relieved of what is still to come as well, within reason.
            coming = float(group.ahead[number] - group.level[number])
            if coming > 0:  # False for NaN
                goals[CPU] -= min(coming, goals[CPU] / 2)
    return Source(group, group.residents(number), problem, goals)


def _solve(board: Board, sources: list[Source]) -> tuple[Board, list[Source]]:
    """The board with the steps, and the sources as they were solved: where only that solves one, domains may go that gain little each,
    and where that is not enough those that should rest."""
    board, unsolved = relieve(board, sources)
    for widened in (Source.with_small, Source.unrested):
        wider = {s.number: more for s in sources if s.number in unsolved and (more := widened(s)) is not None}
        if wider:
            board, still = relieve(board, list(wider.values()))
            unsolved = (unsolved - wider.keys()) | still
            sources = [source if source.number in unsolved else wider.get(source.number, source) for source in sources]
    for source in sources:
        if source.number in unsolved:
            relieve_partly(board, source)
    return board, sources


def _stayed(source: Source, board: Board, outcome: Outcome) -> list[Refusal]:
    """Why each domain of the source that was not moved was not, and what the source lacks if it is not relieved."""
    host = source.residents.host
    refusals = list(source.refusals)
    gone = [item for item in source.items if any(domain.uuid in board.moved for domain in item.domains)]
    resource, upper = next(iter(outcome.shares.items()), (CPU, 0.0))
    enough = {"source_upper_ratio": round(upper, 6), "recovery": source.goals.get(resource)}
    for item in source.items:
        if item in gone:
            continue
        cheaper = [one.cost for one in gone if one.cost < item.cost and one.wants <= item.wants]
        rests = [refusal for domain in item.domains if (refusal := resting(domain, source.group))]
        if rests and source.goals:
            refusals += rests
        elif outcome.solved and cheaper:
            costs = {"cost_bytes": int(item.cost), "least_cost_bytes": int(min(cheaper))}
            refusals += [
                Refusal(domain=d.name, uuid=d.uuid, host=host.name, reason=Reason.COSTLIER, detail=costs)
                for d in item.domains
            ]
        elif outcome.solved:
            refusals += [
                Refusal(domain=d.name, uuid=d.uuid, host=host.name, reason=Reason.NOT_NEEDED, detail=enough)
                for d in item.domains
            ]
        elif board.best(item) is None:
            refusal = nowhere(board, item)
            refusals += [replace(refusal, domain=domain.name, uuid=domain.uuid) for domain in item.domains]
        else:
            none = {"gain_ratio": 0.0}
            refusals += [
                Refusal(domain=d.name, uuid=d.uuid, host=host.name, reason=Reason.LEAST_GAIN, detail=none)
                for d in item.domains
            ]
    if not outcome.solved:
        refusals += _missing(source, outcome)
    return refusals


def _missing(source: Source, outcome: Outcome) -> list[Refusal]:
    """What is still too much on an unsolved source, for each resource: cores of its own CPUs, bytes, or bytes per second."""
    refusals = []
    host = source.residents.host
    for resource, goal in source.goals.items():
        share = outcome.shares[resource]
        over = share - goal
        if over <= 0:
            continue
        if resource == CPU:
            amount: dict[str, float | int] = {"missing_cores": round(over * host.cpus, 6)}
        else:
            unit = "missing_bytes" if resource == MEMORY else "missing_bytes_per_second"
            amount = {unit: int(over / source.group.per_unit[resource, source.number])}
        detail = {"resource": RESOURCES[resource], "upper_ratio": round(share, 6), "recovery": goal, **amount}
        refusals.append(Refusal(host=host.name, reason=Reason.UNSOLVED, detail=detail))
    if not source.goals:
        refusals.append(Refusal(host=host.name, reason=Reason.UNSOLVED, detail={"domains_left": outcome.domains}))
    return refusals


def _moves(board: Board, sources: Mapping[int, Source]) -> list[Move]:
    """The steps as moves in the order of their waves, each with what it leaves on both hosts and why it is made."""
    group = board.group
    singles = [(step, row) for step in board.steps for row in step.item.rows]
    ends = [(step.item.source, step.destination) for step, _ in singles]
    uuids = [group.residents(step.item.source).running[row].uuid for step, row in singles]
    needed = needs(ends, [id(step) if step.item.moves > 1 else None for step, _ in singles])
    numbers = waves(
        ends,
        group.policy.limits,
        [(group.index[one.host], group.index.get(one.migrating_to or "")) for one in group.under_way],
    )
    order = sorted(range(len(singles)), key=lambda at: numbers[at])
    moves = []
    for at, predicted in zip(order, Ledger(group).enter(singles[at] for at in order), strict=True):
        step, row = singles[at]
        domain = group.residents(step.item.source).running[row]
        destination = group.hosts[step.destination].name
        speed = group.link_speed.get(step.item.source, {}).get(step.destination)
        moves.append(
            Move(
                domain=domain.name,
                uuid=domain.uuid,
                source=domain.host,
                destination=destination,
                predicted=predicted,
                wave=numbers[at],
                why=step.why or _why(step, predicted, sources, (singles[n][0] for n in range(at + 1, len(singles)))),
                cost_bytes=int(transfer_bytes(domain, group.policy, speed)),
                bundle=step.item.name if step.item.moves > 1 else None,
                needs=tuple(uuids[n] for n in needed[at]),
                destination_score=_score(group, predicted.destination),
            )
        )
    return moves


def _score(group: Group, use: Prediction) -> float:
    """The share of the scarcest resource that is free below the threshold, by the upper ends of a prediction."""
    upper = np.array(
        (use.cpu_ratio_upper, use.memory_ratio_upper, use.rx_ratio_upper, use.tx_ratio_upper), dtype=np.float64
    )
    limit = group.limit[:, 0]
    return float(((limit - upper) / limit).min())


def _why(step: Step, predicted: PredictedLoads, sources: Mapping[int, Source], later: Iterable[Step]) -> str:
    source = sources.get(step.item.source)
    if source is None:
        following = next((one.item.name for one in later if one.destination == step.item.source), "another domain")
        return f"makes room for {following}"
    name = source.residents.host.name
    if source.problem is Problem.DRAIN:
        return f"{name} is draining"
    short = " and ".join("uplink" if r in ("rx", "tx") else r for r in (RESOURCES[n] for n in source.goals))
    return f"relieves {name} ({short}): its CPU load comes to at most {predicted.source.cpu_ratio_upper:.0%}"


def _scores(group: Group, board: Board, sources: Sequence[Source]) -> Scores:
    """Of each possible destination the share of its scarcest resource that is free below the threshold; of each domain that could
    relieve its host, the share of the host's CPUs that it wants."""
    if not sources:
        return Scores()
    room = group.room(group.use.copy())
    domains = [
        (domain, float(source.residents.wants[row] * group.per_unit[CPU, source.number]))
        for source in sources
        for item in source.items
        for row, domain in zip(item.rows, item.domains, strict=True)
    ]
    names = Counter(domain.name for domain, _ in domains)
    return Scores(
        hosts={group.hosts[number].name: float(room[number]) for number in np.flatnonzero(board.open)},
        domains={d.name if names[d.name] == 1 else f"{d.name}/{d.uuid}": score for d, score in domains},
    )
