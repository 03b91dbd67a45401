"""The thesis' walk: domains by falling score, hosts by falling score, first fit, hosts sorted again after each assignment.

Source: thesis §4.4.6. A strategy gives it the load that a domain puts on its host. One problem is worked on at a time, since
in the thesis the others stop judging themselves meanwhile; a problem for which nothing can be moved leaves the next one its turn.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from virtpoise_balancer.model import (
    Attempt,
    Domain,
    DomainState,
    DomainWeights,
    Host,
    HostWeights,
    Move,
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
from virtpoise_balancer.plan.problems import find, no_destination
from virtpoise_balancer.plan.summary import summarise

LoadOf = Callable[[Domain, Host], float]

_GIB = 2**30
_POSITIVE = 0.333  # two of the six host properties count for a host (the thesis' own rounding)
_NEGATIVE = 0.666


@dataclass(slots=True)
class _Server:
    """A host as it will be after the assignments so far."""

    host: Host
    load: float
    memory_used_bytes: int
    active: int
    inactive: int
    names: set[str]

    def score(self, weights: HostWeights) -> float:
        positive = self.host.cpus * weights.cpus + self.host.memory_bytes / _GIB * weights.memory
        negative = (
            self.load * weights.load
            + self.active * weights.active
            + self.inactive * weights.inactive
            + self.memory_used_bytes / self.host.memory_bytes * weights.memory_ratio
        )
        return positive * _POSITIVE - negative * _NEGATIVE

    def prediction(self) -> Prediction:
        return Prediction.exact(self.load, self.memory_used_bytes / self.host.memory_bytes)


@dataclass(slots=True)
class _Walk:
    """What one walk has found out so far."""

    moves: list[Move] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    solved: bool = False


def first_fit(snapshot: Snapshot, policy: Policy, *, strategy: str, load_of: LoadOf) -> Plan:
    """The plan for the first problem of the snapshot for which anything can be moved."""
    problems = find(snapshot, policy)
    servers = _servers(snapshot)
    closed = [refusal for host in snapshot.hosts if (refusal := no_destination(host))]
    refusals = list(problems.held)
    attempts: list[Attempt] = []
    moves: list[Move] = []
    scored = problems.attempt[0][0].name if problems.attempt else None
    scores = _scores(snapshot, policy, servers, load_of, source=scored)
    if problems.attempt:
        refusals += closed
    for host, problem in problems.attempt:
        if moves:
            refusals.append(Refusal(host=host.name, reason=Reason.WAITING, detail={"until": attempts[-1].host}))
            continue
        walk = _relieve(servers[host.name], problem, snapshot, policy, servers, load_of)
        moves = walk.moves
        refusals += walk.refusals
        attempts.append(Attempt(host=host.name, problem=problem, solved=walk.solved))
    solved = not problems.held and len(attempts) == len(problems.attempt) and all(a.solved for a in attempts)
    return Plan(
        strategy=strategy,
        solved=solved,
        summary=summarise(policy, problems.overloaded, attempts, moves, problems.held),
        overloaded=problems.overloaded,
        attempts=tuple(attempts),
        moves=tuple(moves),
        refusals=tuple(refusals),
        scores=scores,
    )


def domain_score(domain: Domain, load: float, weights: DomainWeights) -> float:
    """How much of an offender the domain is (Figure 11); ``load``: what it puts on its host."""
    return domain.rx_ratio * weights.downlink + domain.tx_ratio * weights.uplink + load * weights.load


def _servers(snapshot: Snapshot) -> dict[str, _Server]:
    active = Counter(domain.host for domain in snapshot.domains if domain.state is not DomainState.SHUTOFF)
    inactive = Counter(domain.host for domain in snapshot.domains if domain.state is DomainState.SHUTOFF)
    names: dict[str, set[str]] = {host.name: set() for host in snapshot.hosts}
    for domain in snapshot.domains:
        names[domain.host].add(domain.name)
    return {
        host.name: _Server(
            host, host.load, host.memory_used_bytes, active[host.name], inactive[host.name], names[host.name]
        )
        for host in snapshot.hosts
        if host.known
    }


def _destinations(servers: dict[str, _Server], source: str | None) -> list[_Server]:
    return [s for s in servers.values() if s.host.name != source and not no_destination(s.host)]


def _scores(
    snapshot: Snapshot, policy: Policy, servers: dict[str, _Server], load_of: LoadOf, *, source: str | None
) -> Scores:
    """Of the possible destinations and of the source's domains; of all while no host has a problem."""
    domains = [d for d in _running(snapshot.domains) if d.host in servers and source in (None, d.host)]
    repeated = {name for name, count in Counter(d.name for d in domains).items() if count > 1}
    return Scores(
        hosts={s.host.name: s.score(policy.weights.host) for s in _destinations(servers, source)},
        domains={
            f"{d.name}/{d.uuid}" if d.name in repeated else d.name: domain_score(
                d, load_of(d, servers[d.host].host), policy.weights.domain
            )
            for d in domains
        },
    )


def _running(domains: Iterable[Domain]) -> list[Domain]:
    return [domain for domain in domains if domain.state is DomainState.RUNNING]


def _relieve(
    source: _Server,
    problem: Problem,
    snapshot: Snapshot,
    policy: Policy,
    servers: dict[str, _Server],
    load_of: LoadOf,
) -> _Walk:
    """Assign the source's domains until it is predicted below the threshold (a drain: until none is left)."""
    threshold = policy.cpu.threshold
    here = [domain for domain in snapshot.domains if domain.host == source.host.name]
    # What a domain puts on its host was measured once: assigning another does not change it.
    loads = {domain.uuid: load_of(domain, source.host) for domain in _running(here)}
    offenders = sorted(
        _running(here), key=lambda d: (-domain_score(d, loads[d.uuid], policy.weights.domain), d.name, d.uuid)
    )
    destinations = _destinations(servers, source.host.name)
    walk = _Walk()
    paused = [domain for domain in here if domain.state is DomainState.PAUSED]
    walk.refusals += [Refusal(domain=d.name, host=d.host, reason=Reason.NOT_RUNNING) for d in paused]

    def relieved() -> bool:
        return problem is Problem.OVERLOAD and source.load < threshold

    for domain in offenders:
        if relieved():
            walk.refusals.append(
                Refusal(domain=domain.name, reason=Reason.NOT_NEEDED, detail={"source_ratio": source.load})
            )
            continue
        load = loads[domain.uuid]
        # Sorted again after each assignment: the loads have changed.
        destinations.sort(key=lambda server: (-server.score(policy.weights.host), server.host.name))
        for server in destinations:
            refusal = _refuses(server, domain, load, threshold)
            if refusal:
                walk.refusals.append(refusal)
                continue
            walk.moves.append(_assign(domain, load, source, server))
            break
    walk.solved = relieved() or (problem is Problem.DRAIN and len(walk.moves) == len(offenders) and not paused)
    return walk


def _refuses(server: _Server, domain: Domain, load: float, threshold: float) -> Refusal | None:
    if domain.name in server.names:
        return Refusal(domain=domain.name, host=server.host.name, reason=Reason.NAME_TAKEN)
    predicted = server.load + load
    if predicted < threshold:
        return None
    return Refusal(
        domain=domain.name,
        host=server.host.name,
        reason=Reason.DESTINATION_CPU,
        detail={"cpu_ratio": server.load, "domain_ratio": load, "predicted_ratio": predicted, "threshold": threshold},
    )


def _assign(domain: Domain, load: float, source: _Server, destination: _Server) -> Move:
    for server, sign in ((source, -1), (destination, 1)):
        server.load = max(0.0, server.load + sign * load)
        server.memory_used_bytes = max(0, server.memory_used_bytes + sign * domain.memory_bytes)
        server.active += sign
    source.names.discard(domain.name)
    destination.names.add(domain.name)
    return Move(
        domain=domain.name,
        uuid=domain.uuid,
        source=source.host.name,
        destination=destination.host.name,
        predicted=PredictedLoads(source=source.prediction(), destination=destination.prediction()),
    )
