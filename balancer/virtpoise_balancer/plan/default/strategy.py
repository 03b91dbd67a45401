"""The default strategy from a snapshot to a plan; the package's docstring lists its steps."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from virtpoise_balancer.analyse.demand import Mask
from virtpoise_balancer.analyse.host_limits import trigger_of
from virtpoise_balancer.model import (
    Attempt,
    DomainState,
    Host,
    Move,
    Overload,
    Plan,
    Policy,
    PredictedLoads,
    Problem,
    Reason,
    Refusal,
    Resource,
    Scores,
    Snapshot,
)
from virtpoise_balancer.plan.default.balance import balance
from virtpoise_balancer.plan.default.bounds import bounded, left_out_refusals, moves_left
from virtpoise_balancer.plan.default.candidates import resting, transfer_bytes
from virtpoise_balancer.plan.default.foresee import foresee
from virtpoise_balancer.plan.default.group import CPU, Group
from virtpoise_balancer.plan.default.predict_moves import free_share, predict_moves
from virtpoise_balancer.plan.default.repair import broken_rules, contradictions, repair, rule_refusals
from virtpoise_balancer.plan.default.solve import solve
from virtpoise_balancer.plan.default.source import Residue, Source, residues
from virtpoise_balancer.plan.default.trial import Step, Trial
from virtpoise_balancer.plan.default.why_not import nowhere
from virtpoise_balancer.plan.default.worth import Prospects, Worth
from virtpoise_balancer.plan.problems import find
from virtpoise_balancer.plan.summary import summarise
from virtpoise_balancer.plan.waves import needs, waves


def plan(snapshot: Snapshot, policy: Policy) -> Plan:
    """The plan that clears all problems together, or as many as it can.

    A move to a host to which enough domains are on their way would wait for them. So such hosts take part only where
    that solves more.
    """
    group = Group(snapshot, policy)
    made = _plan(group, group.taken)
    if made.solved or not group.taken.any():
        return made
    wider = _plan(group, np.zeros_like(group.taken))
    return wider if _count_solved(wider) > _count_solved(made) else made


def _count_solved(made: Plan) -> int:
    return sum(attempt.solved for attempt in made.attempts)


def _plan(group: Group, left_out: Mask) -> Plan:
    """The plan of the group. ``left_out``: hosts that take nothing, besides those that cannot (hosts)."""
    snapshot, policy = group.snapshot, group.policy
    found = group.overloads
    problems = find(snapshot, policy, found, group.concerned)
    sources = sources_of(group, problems.attempt, found)
    prospects = Prospects(group)
    sources, passing = _lasting(prospects, sources)
    closed = ~group.takers | left_out
    while True:
        trial, solved = solve(group, sources, closed)
        weighed = prospects.weighed(solved, trial.steps)
        poor = {number: worth for number, worth in weighed.items() if not worth.pays}
        if not poor:
            break
        passing += [_passing(group, number, worth) for number, worth in poor.items()]
        sources = [source for source in sources if source.number not in poor]
    sources = solved
    most = moves_left(group)
    trial, cut = bounded(trial, sources, closed, most)
    ends = residues(sources, trial.moved)
    attempts = [
        Attempt(host=source.residents.host.name, problem=source.problem, solved=residue.solved)
        for source, residue in zip(sources, ends, strict=True)
    ]
    refusals = [*problems.held, *passing]
    waiting = {domain.uuid for step in cut for domain in step.candidate.domains}
    for source, residue in zip(sources, ends, strict=True):
        refusals += [one for one in _stayed(source, trial, residue) if one.uuid not in waiting]
    begun = len(trial.steps)
    improved: list[Attempt] = []
    uneven = None
    for hard, wanted in ((True, policy.repair_rules), (False, policy.repair_soft_rules)):
        if wanted:
            trial, repaired = repair(trial, hard=hard)
            improved += repaired
    if policy.imbalance is not None and not problems.attempt and not group.under_way:
        evened, uneven = balance(trial, policy.imbalance)
        improved += evened
    if policy.foresight is not None and snapshot.habits is not None:
        kept_from, worths = foresee(trial, prospects, policy.foresight)
        improved += kept_from
        weighed |= worths
    trial, too_many = bounded(trial, sources, closed, most)
    if too_many:
        improved = [replace(one, solved=False) for one in improved] if len(trial.steps) > begun else []
    attempts += improved
    if most is not None:
        refusals += left_out_refusals(group, [*cut, *too_many], most)
    if attempts:
        refusals += group.closed
    named = {(one.domain, one.host) for one in refusals if one.reason is Reason.RULE_CONFLICT}
    refusals += [one for one in contradictions(group) if (one.domain, one.host) not in named]
    broken = broken_rules(trial)
    refusals += rule_refusals(trial, [*broken, *broken_rules(trial, hard=False)])
    unrepaired = [one.rule for one in broken] if policy.repair_rules else []
    moves = _moves(trial, {source.number: source for source in sources}, weighed)
    return Plan(
        strategy="default",
        solved=not problems.stand and not passing and not unrepaired and all(attempt.solved for attempt in attempts),
        summary=summarise(policy, found, attempts, moves, (*problems.held, *passing), unrepaired, refusals, uneven),
        overloaded=found,
        attempts=tuple(attempts),
        moves=tuple(moves),
        refusals=tuple(refusals),
        scores=_scores(group, trial, sources),
    )


def _lasting(prospects: Prospects, sources: Sequence[Source]) -> tuple[list[Source], list[Refusal]]:
    """The sources that may be worth relieving, and why the others wait."""
    concerned = [source for source in sources if prospects.concern(source)]
    prospects.prepare(source.number for source in concerned)
    weighed = {source.number: prospects.at_most(source) for source in concerned}
    poor = {number: worth for number, worth in weighed.items() if not worth.pays}
    return (
        [source for source in sources if source.number not in poor],
        [_passing(source.group, source.number, poor[source.number]) for source in sources if source.number in poor],
    )


def _passing(group: Group, number: int, worth: Worth) -> Refusal:
    saved = round(worth.saved_minutes, 3)
    detail = {"added_minutes": -saved} if saved < 0 else {"saved_minutes": saved}
    detail["cost_minutes"] = round(worth.cost_minutes, 3)
    return Refusal(host=group.hosts[number].name, reason=Reason.NOT_WORTH, detail=detail)


def sources_of(group: Group, attempt: Iterable[tuple[Host, Problem]], found: Sequence[Overload]) -> list[Source]:
    overloads_of: dict[str, list[Overload]] = defaultdict(list)
    for overload in found:
        overloads_of[overload.host].append(overload)
    hosts = [(group.index[host.name], host.name, problem) for host, problem in attempt]
    group.prepare(number for number, _, _ in hosts)
    return [_make_source(group, number, problem, overloads_of[name]) for number, name, problem in hosts]


def _make_source(group: Group, number: int, problem: Problem, overloads_of_it: Sequence[Overload]) -> Source:
    goals: dict[Resource, float] = {}
    if problem is Problem.OVERLOAD:
        for overload in overloads_of_it:
            goals[overload.resource] = trigger_of(group.hosts[number], overload.resource, group.policy).recovery_ratio
        if Resource.CPU in goals:
            # A host on its way up is relieved of what is still to come as well, within reason.
            coming = float(group.ahead[number] - group.level[number])
            if coming > 0:  # False for NaN
                goals[Resource.CPU] -= min(coming, goals[Resource.CPU] / 2)
    return Source(group, group.residents(number), problem, goals)


def _stayed(source: Source, trial: Trial, residue: Residue) -> list[Refusal]:
    """Why each domain of the source that was not moved was not, and what the source lacks if it is not relieved."""
    refusals = list(source.refusals)
    gone = [
        candidate for candidate in source.candidates if any(domain.uuid in trial.moved for domain in candidate.domains)
    ]
    resource, upper = next(iter(residue.shares.items()), (Resource.CPU, 0.0))
    enough = {f"source_{resource}_upper_ratio": round(upper, 6), "recovery": source.goals.get(resource)}
    for candidate in source.candidates:
        if candidate in gone:
            continue
        cheaper = [one.cost for one in gone if one.cost < candidate.cost and one.wants <= candidate.wants]
        rests = [refusal for domain in candidate.domains if (refusal := resting(domain, source.group))]
        if rests and source.goals:
            refusals += rests
        elif residue.solved and cheaper:
            costs = {"cost_bytes": int(candidate.cost), "least_cost_bytes": int(min(cheaper))}
            refusals += [Refusal.of(domain, Reason.COSTLIER, costs) for domain in candidate.domains]
        elif residue.solved:
            refusals += [Refusal.of(domain, Reason.NOT_NEEDED, enough) for domain in candidate.domains]
        elif trial.best(candidate) is None:
            refusal = nowhere(trial, candidate)
            refusals += [replace(refusal, domain=domain.name, uuid=domain.uuid) for domain in candidate.domains]
        else:
            least = source.group.least_gain(source.number)
            gains = {"gain_ratio": round(source.gain(candidate, trial.moved), 6), "least_gain_ratio": least}
            refusals += [Refusal.of(domain, Reason.LEAST_GAIN, gains) for domain in candidate.domains]
    if not residue.solved:
        refusals += _missing(source, residue)
    return refusals


def _missing(source: Source, residue: Residue) -> list[Refusal]:
    """One refusal for each resource of an unsolved source with the excess, in cores of its own CPUs, bytes, or bytes
    per second.
    """
    refusals = []
    host = source.residents.host
    for resource, goal in source.goals.items():
        share = residue.shares[resource]
        over = share - goal
        if over <= 0:
            continue
        if resource is Resource.CPU:
            amount: dict[str, float | int] = {"missing_cores": round(over * host.cpus, 6)}
        else:
            unit = "missing_bytes" if resource is Resource.MEMORY else "missing_bytes_per_second"
            amount = {unit: int(over / source.group.per_unit[resource.row, source.number])}
        detail = {f"{resource}_upper_ratio": round(share, 6), "recovery": goal, **amount}
        if (own := source.own(resource)) >= goal:
            detail["own_ratio"] = round(own, 6)
        refusals.append(Refusal(host=host.name, reason=Reason.UNSOLVED, detail=detail))
    if not source.goals:
        paused = sum(one.state is DomainState.PAUSED for one in source.group.domains_on(source.number))
        left = {"domains_left": residue.domains + paused}
        refusals.append(Refusal(host=host.name, reason=Reason.UNSOLVED, detail=left))
    return refusals


def _moves(trial: Trial, sources: Mapping[int, Source], weighed: Mapping[int, Worth]) -> list[Move]:
    """The steps as moves in the order of their waves, each with what it leaves on both hosts and why it is made."""
    group = trial.group
    singles = [(step, row) for step in trial.steps for row in step.candidate.rows]
    ends = [(step.candidate.source, step.destination) for step, _ in singles]
    domains = [group.residents(step.candidate.source).running[row] for step, row in singles]
    needed = needs(ends, [id(step) if step.candidate.moves > 1 else None for step, _ in singles])
    under_way = [(group.index[one.host], group.index.get(one.migrating_to or "")) for one in group.under_way]
    numbers = waves(ends, group.policy.limits, under_way)
    order = sorted(range(len(singles)), key=numbers.__getitem__)
    predictions = predict_moves(group, [(ends[at][0], singles[at][1], ends[at][1]) for at in order])
    scores = _destination_scores(group, [ends[at] for at in order], predictions)
    learned = {number: source.decided_by_errors(trial.moved) for number, source in sources.items()}
    moves = []
    for at, predicted, (before, after) in zip(order, predictions, scores, strict=True):
        (step, row), (source, destination), domain = singles[at], ends[at], domains[at]
        speed = group.link_speed.get(source, {}).get(destination)
        relieved, worth = sources.get(source), weighed.get(source)
        why = step.why or _why(step, predicted, sources, (singles[n][0] for n in range(at + 1, len(singles))))
        moves.append(
            Move(
                domain=domain.name,
                uuid=domain.uuid,
                source=domain.host,
                destination=group.hosts[destination].name,
                predicted=predicted,
                wave=numbers[at],
                why=why + _errors(learned.get(source, 0.0)) + (f"; {worth.text}" if worth else ""),
                cost_bytes=int(transfer_bytes(domain, group.policy, speed)),
                bundle=step.candidate.name if step.candidate.moves > 1 else None,
                needs=tuple(domains[n].uuid for n in needed[at]),
                problem=step.problem or (relieved.problem if relieved else None),
                domain_score=_domain_scores(group, source)[row],
                destination_score_before=before,
                destination_score=after,
                saved_minutes=worth.saved_minutes if worth else None,
                cost_minutes=worth.cost_minutes if worth else None,
            )
        )
    return moves


def _domain_scores(group: Group, number: int) -> list[float]:
    """The share of their host's CPUs that its running domains want, in the order of ``Residents.running``."""
    shares: list[float] = (group.residents(number).wants * group.per_unit[CPU, number]).tolist()
    return shares


def _destination_scores(
    group: Group, ends: Sequence[tuple[int, int]], predictions: Sequence[PredictedLoads]
) -> list[tuple[float, float]]:
    """The free share of each move's destination before it and after it, with all moves before. ``ends``: host numbers
    of the source and the destination.
    """
    free: dict[int, float] = {}
    scores = []
    for (source, destination), predicted in zip(ends, predictions, strict=True):
        if destination not in free:
            limit = group.limit[:, destination]
            free[destination] = float(((limit - group.use[:, destination]) / limit).min())
        before, after = free[destination], free_share(group, destination, predicted.destination)
        free[source], free[destination] = free_share(group, source, predicted.source), after
        scores.append((before, after))
    return scores


def predict(snapshot: Snapshot, policy: Policy, moves: Sequence[Move]) -> tuple[Move, ...]:
    """The moves with what each leaves on its hosts if these moves alone are made, in this order."""
    group = Group(snapshot, policy)
    ends = [(group.index[move.source], group.index[move.destination]) for move in moves]
    rows = [
        next(row for row, domain in enumerate(group.residents(source).running) if domain.uuid == move.uuid)
        for move, (source, _) in zip(moves, ends, strict=True)
    ]
    predictions = predict_moves(group, [(source, row, to) for row, (source, to) in zip(rows, ends, strict=True)])
    scores = _destination_scores(group, ends, predictions)
    return tuple(
        replace(move, predicted=predicted, destination_score_before=before, destination_score=after)
        for move, predicted, (before, after) in zip(moves, predictions, scores, strict=True)
    )


def _why(step: Step, predicted: PredictedLoads, sources: Mapping[int, Source], later: Iterable[Step]) -> str:
    source = sources.get(step.candidate.source)
    if source is None:
        following = next(
            (one.candidate.name for one in later if one.destination == step.candidate.source), "another domain"
        )
        return f"makes room for {following}"
    name = source.residents.host.name
    if source.problem is Problem.DRAIN:
        return f"{name} is draining"
    uppers = [(one, upper) for one in source.goals if (upper := predicted.source.upper(one)) is not None]
    first = [f"its {one.use} comes to at most {upper:.0%}" for one, upper in uppers[:1]]
    return f"relieves {name}: " + " and ".join(first + [f"its {r.use} to at most {u:.0%}" for r, u in uppers[1:]])


def _errors(learned: float) -> str:
    """What earlier errors have to do with it that this many domains are moved."""
    return (
        f", {learned:.0%} of it since earlier predictions were too low, without which fewer would go" if learned else ""
    )


def _scores(group: Group, trial: Trial, sources: Sequence[Source]) -> Scores:
    """The scores before the first assignment.

    Of each destination: the free share of its scarcest resource below the threshold. Of each domain that could relieve
    its host: the share of the host's CPUs that it wants.
    """
    if not sources:
        return Scores()
    room = group.room(group.use.copy())
    domains = [
        (domain, scores[row])
        for source in sources
        for scores in [_domain_scores(group, source.number)]
        for candidate in source.candidates
        for row, domain in zip(candidate.rows, candidate.domains, strict=True)
    ]
    names = Counter(domain.name for domain, _ in domains)
    numbers = np.flatnonzero(trial.open)
    return Scores(
        hosts={
            group.hosts[number].name: free
            for number, free in zip(numbers.tolist(), room[numbers].tolist(), strict=True)
        },
        domains={d.name if names[d.name] == 1 else f"{d.name}/{d.uuid}": score for d, score in domains},
    )
