"""What the page shows, as values ready to be written into its templates. Pure: from the board's state, with no clock of its own."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from urllib.parse import quote

from virtpoise_balancer.explain import wording
from virtpoise_balancer.knowledge.store import MigrationRecord, PredictionRecord
from virtpoise_balancer.model import (
    Domain,
    DomainState,
    Host,
    HostState,
    Move,
    Plan,
    Policy,
    Prediction,
    Refusal,
    Snapshot,
)
from virtpoise_balancer.plan import thesis
from virtpoise_balancer.web.state import Flight, HostStatus, State, domains_by_host, host_status

# The width of a bar's drawing, whatever its width on the screen.
WIDTH = 1000
# Up to so many hosts each domain is named on the overview; beyond, only drawn.
_MOST_NAMED_HOSTS = 60
_MOST_REFUSALS = 200
_MOST_ATTENTION = 12
_IN = {"cpu": "", "memory": " in memory", "rx": " in its uplink", "tx": " in its uplink"}


@dataclass(frozen=True, slots=True)
class Link:
    text: str
    url: str


@dataclass(frozen=True, slots=True)
class Tag:
    """``kind``: hot, warm, calm or dim."""

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Segment:
    """A domain's part of its host's bar, in drawing units."""

    x: float
    width: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A ratio against its threshold. ``own``: where the part begins that no domain accounts for."""

    label: str
    ratio: float | None
    threshold: float
    hot: bool
    segments: tuple[Segment, ...] = ()
    own: float = 0.0

    @property
    def end(self) -> float:
        return round(min(self.ratio or 0.0, 1.0) * WIDTH, 1)

    @property
    def mark(self) -> float:
        return round(self.threshold * WIDTH, 1)

    @property
    def text(self) -> str:
        return wording.percent(self.ratio)


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRow:
    name: str
    url: str
    tags: tuple[Tag, ...]
    cpu: Bar
    memory: Bar
    network: Bar
    count: int
    domains: tuple[Link, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    label: str
    value: str
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    figures: tuple[Figure, ...]
    attention: tuple[tuple[Link | None, str], ...]
    rows: tuple[HostRow, ...]
    named: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class FlightView:
    domain: Link
    source: Link
    destination: Link
    ratio: float | None
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """One end of a move: the host's load now, and as it is predicted with its interval; positions in drawing units."""

    role: str
    host: Link
    now: float | None
    predicted: float
    lower: float
    upper: float
    measured: float | None
    threshold: float
    text: str
    verdict: str = ""

    def at(self, ratio: float) -> float:
        return round(min(max(ratio, 0.0), 1.0) * WIDTH, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveView:
    number: int
    uuid: str
    destination_name: str
    domain: Link
    source: Link
    destination: Link
    why: str
    wave: int
    scores: str
    cost: str
    ends: tuple[Expected, ...]
    needs: tuple[int, ...]  # numbers of the moves that it counts on


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusalGroup:
    reason: str
    count: int
    shown: tuple[tuple[Link | None, Link | None, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanView:
    summary: str
    solved: bool
    moves: tuple[MoveView, ...]
    refusals: tuple[RefusalGroup, ...]
    hosts: tuple[tuple[Link, str], ...]
    domains: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationView:
    id: int
    began: float | None
    domain: Link
    source: Link
    destination: Link
    result: Tag
    why: str
    took: str
    downtime: str
    ends: tuple[Expected, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainRow:
    domain: Link
    state: DomainState
    vcpus: int
    cpu: str
    delay: str
    memory: str
    network: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Readings:
    """The newest readings as the points of a line, in a drawing WIDTH wide and 200 high."""

    points: str
    mark: float
    first: str
    text: str


def host_link(name: str) -> Link:
    return Link(name, f"/hosts/{quote(name, safe='')}")


def domain_link(name: str, uuid: str) -> Link:
    return Link(name, f"/domains/{quote(uuid, safe='')}")


def iso(at: float) -> str:
    """For ``<time datetime>``."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def clock(at: float) -> str:
    """As it is shown where no script runs: UTC, to the second."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def sentence(state: State) -> str:
    hosts, domains = (state.snapshot.hosts, state.snapshot.domains) if state.snapshot else ((), ())
    names = (*(host.name for host in hosts), *(domain.name for domain in domains))
    return wording.headline(state.sentence, names)


# --- overview ---------------------------------------------------------------------------------------------------------


def overview(state: State) -> Overview | None:
    """None before the first cycle that saw the group."""
    snapshot = state.snapshot
    if snapshot is None:
        return None
    on = domains_by_host(snapshot)
    named = len(snapshot.hosts) <= _MOST_NAMED_HOSTS
    statuses = [host_status(state, snapshot, host, on.get(host.name, ())) for host in snapshot.hosts]
    rows = tuple(
        host_row(state.policy, host, found, on.get(host.name, ()), named=named)
        for host, found in zip(snapshot.hosts, statuses, strict=True)
    )
    return Overview(
        figures=_figures(snapshot, statuses), attention=_attention(state, snapshot, statuses), rows=rows, named=named
    )


def host_row(policy: Policy, host: Host, found: HostStatus, domains: Sequence[Domain], *, named: bool) -> HostRow:
    return HostRow(
        name=host.name,
        url=host_link(host.name).url,
        tags=host_tags(found),
        cpu=cpu_bar(policy, host, found, domains),
        memory=_plain_bar("memory", found.memory_ratio, policy.memory.threshold),
        network=_plain_bar("uplink", _busiest(found), policy.network.threshold),
        count=len(domains),
        domains=tuple(domain_link(domain.name, domain.uuid) for domain in domains) if named else (),
    )


def host_tags(found: HostStatus) -> tuple[Tag, ...]:
    tags = []
    if found.state is not HostState.ACTIVE:
        tags.append(Tag("dim" if found.state is HostState.UNKNOWN else "warm", found.state.value))
    if found.overloaded:
        tags.append(Tag("hot", f"overloaded{_IN[found.resource]}"))
    elif found.consecutive:
        tags.append(Tag("warm", f"{found.consecutive} of {found.needed}{_IN[found.resource]}"))
    if found.penalty_seconds:
        tags.append(Tag("warm", f"waits {wording.duration(found.penalty_seconds)}"))
    return tuple(tags)


def cpu_bar(policy: Policy, host: Host, found: HostStatus, domains: Sequence[Domain]) -> Bar:
    """The host's load, made up of its domains' shares; what measuring makes too much of is scaled down to the load."""
    load = found.cpu_ratio
    if load is None:
        return _plain_bar("CPU", None, policy.cpu.threshold)
    shares = [domain.cpu_cores / host.cpus for domain in domains]
    total = sum(shares)
    scale = min(load / total, 1.0) * WIDTH if total else 0.0
    segments, x = [], 0.0
    for domain, share in zip(domains, shares, strict=True):
        width = share * scale
        if width >= 0.5:
            text = f"{domain.name} {wording.percent(share)}"
            segments.append(Segment(round(x, 1), round(width, 1), text))
        x += width
    return Bar(
        label="CPU",
        ratio=load,
        threshold=policy.cpu.threshold,
        hot=load >= policy.cpu.threshold,
        segments=tuple(segments),
        own=round(x, 1),
    )


def _plain_bar(label: str, ratio: float | None, threshold: float) -> Bar:
    return Bar(label=label, ratio=ratio, threshold=threshold, hot=ratio is not None and ratio >= threshold)


def _busiest(found: HostStatus) -> float | None:
    return None if found.rx_ratio is None or found.tx_ratio is None else max(found.rx_ratio, found.tx_ratio)


def _figures(snapshot: Snapshot, statuses: Sequence[HostStatus]) -> tuple[Figure, ...]:
    known = [found for found in statuses if found.cpu_ratio is not None]
    loads = [found.cpu_ratio for found in known if found.cpu_ratio is not None]
    running = sum(domain.state is DomainState.RUNNING for domain in snapshot.domains)
    others = len(snapshot.domains) - running
    figures = [
        Figure(
            label="Hosts",
            value=str(len(statuses)),
            note=f"{len(statuses) - len(known)} unknown" if len(known) < len(statuses) else "all known",
        ),
        Figure(label="Domains", value=str(running), note=f"running, {others} not" if others else "running"),
    ]
    if loads:
        top = max(known, key=lambda found: found.cpu_ratio or 0.0)
        figures.append(Figure(label="Highest load", value=wording.percent(top.cpu_ratio), note=top.name))
        figures.append(
            Figure(
                label="Mean load",
                value=wording.percent(statistics.fmean(loads)),
                note=f"± {wording.percent(statistics.pstdev(loads))} between hosts",
            )
        )
    return tuple(figures)


def _drained(host: HostStatus) -> str:
    """How far a drain is; that nothing is left is for the host's libvirt to say."""
    left = len(host.domains) if host.active_domains is None else host.active_domains
    if left:
        return f"is draining: {left} domain{'' if left == 1 else 's'} left"
    return "is drained" if host.active_domains == 0 else "is draining: its libvirt has not said yet that it is empty"


def _attention(state: State, snapshot: Snapshot, statuses: Sequence[HostStatus]) -> tuple[tuple[Link | None, str], ...]:
    found: list[tuple[Link | None, str]] = []
    for host in statuses:
        link = host_link(host.name)
        if host.state is HostState.UNKNOWN:
            told = "is told to drain, and " if _draining(state, host.name) else ""
            found.append((link, f"{told}is unknown: {host.why_unknown}"))
        elif host.state is HostState.DRAINING:
            found.append((link, _drained(host)))
        if host.state is not HostState.UNKNOWN and host.name in state.silent:
            found.append(
                (link, f"does not answer the balancer, so no move to it can be made: {state.silent[host.name]}")
            )
        if host.overloaded:
            measured = f"{wording.percent(host.worst_ratio)}, {host.consecutive} readings in a row"
            found.append((link, f"is overloaded{_IN[host.resource]}: {measured}"))
        if host.penalty_seconds:
            found.append(
                (link, f"waits {wording.duration(host.penalty_seconds)} after {host.failures} failed attempts")
            )
    seen = {host.name for host in statuses}
    found += [
        (None, f"{name} is told to drain, and is not seen any more (virtpoise undrain {name} takes it back)")
        for name, standing in sorted(state.standings.items())
        if standing.draining and name not in seen
    ]
    observation = state.observation
    names = {domain.uuid: domain.name for domain in snapshot.domains} if observation and observation.duplicates else {}
    found += [
        (domain_link(names.get(uuid, uuid), uuid), "is seen running on more than one host")
        for uuid in (observation.duplicates if observation else ())
    ]
    found += [(None, f"target '{one.instance}' is not taken for a host: {one.why}") for one in state.refused.named]
    found += [(None, note) for note in (state.plan.notes if state.plan else ())]
    found += [(None, f"Prometheus warns: {warning}") for warning in (observation.warnings if observation else ())]
    if len(found) > _MOST_ATTENTION:
        return (*found[:_MOST_ATTENTION], (None, f"and {len(found) - _MOST_ATTENTION} more"))
    return tuple(found)


def _draining(state: State, host: str) -> bool:
    return (standing := state.standings.get(host)) is not None and standing.draining


def flight_views(found: Sequence[Flight]) -> tuple[FlightView, ...]:
    return tuple(
        FlightView(
            domain=domain_link(flight.domain, flight.uuid),
            source=host_link(flight.source),
            destination=host_link(flight.destination),
            ratio=(ratio := _done(flight)),
            text=_flown(flight, ratio),
        )
        for flight in found
    )


def _flown(flight: Flight, ratio: float | None) -> str:
    done = "begins" if ratio is None else wording.percent(ratio)
    if flight.progress is None:
        return done
    elapsed = wording.duration(flight.progress.elapsed_seconds)
    return f"{done}, {elapsed}{wording.dirtied(flight.progress.dirty_bytes_per_second)}"


def _done(flight: Flight) -> float | None:
    if flight.progress is None or not flight.progress.total_bytes:
        return None
    return max(1 - flight.progress.remaining_bytes / flight.progress.total_bytes, 0.0)


# --- plan -------------------------------------------------------------------------------------------------------------


def plan_view(plan: Plan, snapshot: Snapshot, policy: Policy) -> PlanView:
    hosts = {host.name: host for host in snapshot.hosts}
    uuids = {domain.name: domain.uuid for domain in snapshot.domains}
    scores = _scores_along(plan, snapshot, policy)
    return PlanView(
        summary=wording.headline(plan.summary, hosts),
        solved=plan.solved,
        moves=tuple(_move(plan, n, move, hosts, policy, scores[n]) for n, move in enumerate(plan.moves)),
        refusals=_refusals(plan.refusals, hosts, uuids),
        hosts=tuple((host_link(name), f"{score:.3f}") for name, score in _by_score(plan.scores.hosts.items())),
        domains=tuple((name, f"{score:.3f}") for name, score in _by_score(plan.scores.domains.items())),
    )


def _by_score(scores: Iterable[tuple[str, float]]) -> list[tuple[str, float]]:
    return sorted(scores, key=lambda one: (-one[1], one[0]))


def _scores_along(plan: Plan, snapshot: Snapshot, policy: Policy) -> list[str]:
    """The destination's score before and after each move, all earlier ones made."""
    after = _thesis_scores(plan, snapshot, policy) if plan.strategy == "thesis" else _rooms(plan, policy)
    now = dict(plan.scores.hosts)
    told = []
    for move, scores in zip(plan.moves, after, strict=True):
        before, then = now.get(move.destination), scores.get(move.destination)
        told.append("" if before is None or then is None else f"{move.destination} {before:.3f} → {then:.3f}")
        now |= {host: score for host, score in scores.items() if host in now}
    return told


def _rooms(plan: Plan, policy: Policy) -> list[dict[str, float]]:
    """The default strategy's scores of both hosts after each move: what is free of the scarcest resource below its threshold."""

    def room(use: Prediction) -> float:
        shares = (
            (use.cpu_ratio_upper, policy.cpu.threshold),
            (use.memory_ratio_upper, policy.memory.threshold),
            (use.rx_ratio_upper, policy.network.threshold),
            (use.tx_ratio_upper, policy.network.threshold),
        )
        return min((threshold - share) / threshold for share, threshold in shares if share is not None)

    return [
        {move.source: room(move.predicted.source), move.destination: room(move.predicted.destination)}
        for move in plan.moves
    ]


def _thesis_scores(plan: Plan, snapshot: Snapshot, policy: Policy) -> list[Mapping[str, float]]:
    """The destination's score after each move: the strategy is asked about that host alone, as it is predicted."""
    hosts = {host.name: host for host in snapshot.hosts}
    domains = {domain.uuid: domain for domain in snapshot.domains}
    scores: list[Mapping[str, float]] = []
    for move in plan.moves:
        host, domain, then = hosts.get(move.destination), domains.get(move.uuid), move.predicted.destination
        if host is None or domain is None:
            scores.append({})
            continue
        domains[move.uuid] = replace(domain, host=host.name)
        memory = host.memory_used_bytes if then.memory_ratio is None else then.memory_ratio * host.memory_bytes
        alone = replace(
            snapshot,
            hosts=(replace(host, cpu_ratio=(then.cpu_ratio,), memory_used_bytes=round(memory)),),
            domains=tuple(one for one in domains.values() if one.host == host.name),
        )
        scores.append(thesis.plan(alone, policy).scores.hosts)
    return scores


def _move(
    plan: Plan, number: int, move: Move, hosts: dict[str, Host], policy: Policy, destination_scores: str
) -> MoveView:
    scores = plan.scores
    told = []
    if (score := scores.domains.get(move.domain, scores.domains.get(f"{move.domain}/{move.uuid}"))) is not None:
        told.append(f"domain {score:.3f}")
    if destination_scores:
        told.append(destination_scores)
    return MoveView(
        number=number,
        uuid=move.uuid,
        destination_name=move.destination,
        domain=domain_link(move.domain, move.uuid),
        source=host_link(move.source),
        destination=host_link(move.destination),
        why=wording.headline(move.why, [*hosts]) if move.why else "",
        wave=move.wave,
        scores=", ".join(told),
        cost=wording.size(move.cost_bytes) if move.cost_bytes is not None else "",
        ends=(
            _expected("source", move.source, hosts, move.predicted.source, policy),
            _expected("destination", move.destination, hosts, move.predicted.destination, policy),
        ),
        needs=_needs(plan, number),
    )


def _needs(plan: Plan, number: int) -> tuple[int, ...]:
    """The moves that must go with this one: earlier ones on the same hosts, and all of its bundle."""
    move = plan.moves[number]
    return tuple(
        n
        for n, other in enumerate(plan.moves)
        if n != number
        and (
            (n < number and {move.source, move.destination} & {other.source, other.destination})
            or (move.bundle is not None and other.bundle == move.bundle)
        )
    )


def _expected(role: str, name: str, hosts: dict[str, Host], predicted: Prediction, policy: Policy) -> Expected:
    host = hosts.get(name)
    now = host.load if host is not None and host.known else None
    text = f"{wording.percent(now)} now, predicted {wording.percent(predicted.cpu_ratio)}"
    if predicted.cpu_ratio_lower != predicted.cpu_ratio_upper:
        text += f" ({wording.percent(predicted.cpu_ratio_lower)} to {wording.percent(predicted.cpu_ratio_upper)})"
    return Expected(
        role=role,
        host=host_link(name),
        now=now,
        predicted=predicted.cpu_ratio,
        lower=predicted.cpu_ratio_lower,
        upper=predicted.cpu_ratio_upper,
        measured=None,
        threshold=policy.cpu.threshold,
        text=text,
    )


def _refusals(refusals: Sequence[Refusal], hosts: dict[str, Host], uuids: dict[str, str]) -> tuple[RefusalGroup, ...]:
    counts = Counter(refusal.reason for refusal in refusals)
    left = _MOST_REFUSALS
    groups = []
    for reason, count in sorted(counts.items(), key=lambda one: (-one[1], one[0])):
        shown = [refusal for refusal in refusals if refusal.reason is reason][: max(left, 1)]
        left -= len(shown)
        groups.append(
            RefusalGroup(
                reason=wording.headline(wording.reason(reason)),
                count=count,
                shown=tuple(
                    (
                        domain_link(one.domain, uuids.get(one.domain, one.domain)) if one.domain else None,
                        host_link(one.host) if one.host in hosts and one.host else None,
                        wording.figures(one),
                    )
                    for one in shown
                ),
            )
        )
    return tuple(groups)


# --- history ----------------------------------------------------------------------------------------------------------

_RESULTS = {"done": "calm", "skipped": "dim", "failed": "hot"}
_VERDICTS = {
    None: "not measured yet",
    "disturbed": "another migration came in between",
    "no_data": "no figures to measure it by",
    "not_moved": "not moved",
}


def migration_view(record: MigrationRecord, policy: Policy) -> MigrationView:
    result = record.result or ("under way" if record.began else "to be made")
    return MigrationView(
        id=record.id,
        began=record.began,
        domain=domain_link(record.domain, record.uuid),
        source=host_link(record.source),
        destination=host_link(record.destination),
        result=Tag(_RESULTS.get(record.result or "", "warm"), result),
        why=record.why,
        took=wording.duration(record.seconds),
        downtime=wording.duration(record.downtime_seconds),
        ends=tuple(_measured(one, policy) for one in record.predictions if one.resource == "cpu"),
    )


def _measured(one: PredictionRecord, policy: Policy) -> Expected:
    text = f"predicted {wording.percent(one.predicted, 1)}"
    verdict = _VERDICTS.get(one.verdict, one.verdict or "")
    if one.measured is not None:
        inside = one.lower <= one.measured <= one.upper
        text += f", measured {wording.percent(one.measured, 1)}"
        verdict = f"off by {(one.measured - one.predicted) * 100:+.1f} points"
        if one.lower < one.upper:
            verdict += ", within the interval" if inside else ", outside the interval"
    return Expected(
        role=one.role,
        host=host_link(one.host),
        now=None,
        predicted=one.predicted,
        lower=one.lower,
        upper=one.upper,
        measured=one.measured,
        threshold=policy.cpu.threshold,
        text=text,
        verdict=verdict,
    )


# --- host and domain --------------------------------------------------------------------------------------------------


def domain_rows(domains: Sequence[Domain], host: Host, plan: Plan | None) -> tuple[DomainRow, ...]:
    moves = {move.uuid: move for move in plan.moves} if plan else {}
    refused: dict[str, Refusal] = {}
    for refusal in plan.refusals if plan else ():
        if refusal.domain is not None:
            refused.setdefault(refusal.domain, refusal)
    rows = []
    for domain in sorted(domains, key=lambda one: (-one.cpu_cores, one.name)):
        why = ""
        if move := moves.get(domain.uuid):
            why = f"to be moved to {move.destination}"
        elif found := refused.get(domain.name):
            why = f"stays: {wording.reason(found.reason)}"
        rows.append(
            DomainRow(
                domain=domain_link(domain.name, domain.uuid),
                state=domain.state,
                vcpus=domain.vcpus,
                cpu=wording.percent(domain.cpu_cores / host.cpus),
                delay=wording.percent(domain.cpu_delay_cores / host.cpus),
                memory=wording.size(domain.memory_bytes),
                network=wording.percent(max(domain.rx_ratio, domain.tx_ratio)),
                why=why,
            )
        )
    return tuple(rows)


def domain_figures(domain: Domain, host: Host | None) -> tuple[Figure, ...]:
    share = wording.percent(domain.cpu_cores / host.cpus) if host else "-"
    return (
        Figure(
            label="CPU",
            value=f"{domain.cpu_cores:.2f} cores",
            note=f"{share} of {domain.host}, {domain.vcpus} vCPU{'' if domain.vcpus == 1 else 's'}",
        ),
        Figure(label="Waited for CPU", value=f"{domain.cpu_delay_cores:.2f} cores", note="wanted, but not given"),
        Figure(label="Memory", value=wording.size(domain.memory_bytes), note=_resident(domain)),
        Figure(
            label="Network",
            value=f"{wording.size(domain.rx_bytes_per_second)}/s",
            note=f"received, {wording.size(domain.tx_bytes_per_second)}/s sent",
        ),
    )


def _resident(domain: Domain) -> str:
    if domain.memory_resident_bytes is None:
        return "assigned"
    return f"assigned, {wording.size(domain.memory_resident_bytes)} resident"


def readings(ratios: Sequence[float], step_seconds: float, policy: Policy) -> Readings | None:
    if len(ratios) < 2:
        return None
    step = WIDTH / (len(ratios) - 1)
    points = " ".join(f"{i * step:.1f},{200 - min(ratio, 1.0) * 200:.1f}" for i, ratio in enumerate(ratios))
    return Readings(
        points=points,
        mark=round(200 - policy.cpu.threshold * 200, 1),
        first=wording.duration((len(ratios) - 1) * step_seconds),
        text=f"from {wording.percent(min(ratios))} to {wording.percent(max(ratios))}, newest {wording.percent(ratios[-1])}",
    )
