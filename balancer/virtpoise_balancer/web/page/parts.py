"""What several pages show: links, tags, bars, figures, the two ends of a migration.

Pure values, ready for the templates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import quote

from virtpoise_balancer.analyse.host_limits import trigger_of
from virtpoise_balancer.explain import wording
from virtpoise_balancer.knowledge.records import MigrationRecord, PredictionRecord
from virtpoise_balancer.model import Domain, Host, HostState, Policy, Prediction, Resource
from virtpoise_balancer.web.state import HostStatus, State

# The width of a bar's drawing, in drawing units. The browser scales it.
WIDTH = 1000
# The newest migrations of a host or domain that are shown.
MOST_MIGRATIONS = 20


@dataclass(frozen=True, slots=True)
class Anchor:
    """A hyperlink."""

    text: str
    url: str


@dataclass(frozen=True, slots=True)
class Tag:
    """A short label. ``kind``, which chooses its colour: hot, warm, calm or dim."""

    kind: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A large number with its label."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Segment:
    """A domain's share of its host's bar, in drawing units."""

    x: float
    width: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A ratio against its threshold.

    ``own``: where the share of the host itself begins, after all domains, in drawing units.
    """

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
        return wording.use(self.ratio)


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRow:
    """A host with its bars.

    ``count``: its domains, shut-off ones aside; None where that is not known. ``domains`` is empty where only their
    number is shown.
    """

    name: str
    url: str
    tags: tuple[Tag, ...]
    cpu: Bar
    memory: Bar
    network: Bar
    count: int | None
    domains: tuple[Anchor, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveEnd:
    """One host of a move: its use of a resource now and measured afterwards, and the prediction with its interval.

    All are ratios.
    """

    role: str
    host: Anchor
    now: float | None
    predicted: float
    lower: float
    upper: float
    measured: float | None
    threshold: float
    text: str
    verdict: str = ""

    def at(self, ratio: float) -> float:
        """The ratio as a position in drawing units."""
        return round(min(max(ratio, 0.0), 1.0) * WIDTH, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationCard:
    """A migration of the history with its result and both ends."""

    id: int
    began: float | None
    domain: Anchor
    source: Anchor
    destination: Anchor
    result: Tag
    why: str
    took: str
    downtime: str
    ends: tuple[MoveEnd, ...]


def host_link(name: str) -> Anchor:
    """A link to the host's page."""
    return Anchor(name, f"/hosts/{quote(name, safe='')}")


def domain_link(name: str, uuid: str) -> Anchor:
    """A link to the domain's page."""
    return Anchor(name, f"/domains/{quote(uuid, safe='')}")


def iso(at: float) -> str:
    """The time for ``<time datetime>``."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def clock(at: float) -> str:
    """The time as it is shown without scripts: in UTC, to the second."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def plural(count: int, noun: str) -> str:
    """The number with its noun: "1 domain", "3 domains"."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


# --- hosts ------------------------------------------------------------------------------------------------------------


def host_row(policy: Policy, host: Host, found: HostStatus, domains: Sequence[Domain], *, named: bool) -> HostRow:
    """The host as a row of the overview.

    ``domains``: those on the host, shut-off ones aside; ``named``: whether each is listed with a link.
    """
    return HostRow(
        name=host.name,
        url=host_link(host.name).url,
        tags=_host_tags(found),
        cpu=_cpu_bar(policy, host, found, domains),
        memory=_plain_bar("memory", found.memory_ratio, trigger_of(host, Resource.MEMORY, policy).threshold),
        network=_plain_bar(
            "uplink",
            wording.busiest_direction(found.rx_ratio, found.tx_ratio),
            trigger_of(host, Resource.RX, policy).threshold,
        ),
        count=len(domains) if host.known or domains else None,
        domains=tuple(domain_link(domain.name, domain.uuid) for domain in domains) if named else (),
    )


def _of_resource(found: HostStatus) -> str:
    """Which resource is overloaded or next to it, as an addition to "overloaded"; empty for CPU."""
    return "" if found.resource is Resource.CPU else f" in its {found.resource.label}"


def _host_tags(found: HostStatus) -> tuple[Tag, ...]:
    tags = []
    if found.state is not HostState.ACTIVE:
        tags.append(Tag("dim" if found.state is HostState.UNKNOWN else "warm", found.state.value))
    if found.overloaded:
        tags.append(Tag("hot", f"overloaded{_of_resource(found)}"))
    elif found.consecutive and found.state is HostState.ACTIVE:
        tags.append(Tag("warm", f"{found.consecutive} of {found.needed}{_of_resource(found)}"))
    if found.penalty_seconds:
        tags.append(Tag("warm", f"back-off {wording.duration(found.penalty_seconds)}"))
    return tuple(tags)


def _cpu_bar(policy: Policy, host: Host, found: HostStatus, domains: Sequence[Domain]) -> Bar:
    """The host's load, divided into its domains' shares.

    If the shares add up to more than the load, they are scaled down to it.
    """
    load, threshold = found.cpu_ratio, trigger_of(host, Resource.CPU, policy).threshold
    if load is None:
        return _plain_bar("CPU", None, threshold)
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
        threshold=threshold,
        hot=load >= threshold,
        segments=tuple(segments),
        own=round(x, 1),
    )


def _plain_bar(label: str, ratio: float | None, threshold: float) -> Bar:
    return Bar(label=label, ratio=ratio, threshold=threshold, hot=ratio is not None and ratio >= threshold)


# --- migrations -------------------------------------------------------------------------------------------------------

_RESULT_KINDS = {"done": "calm", "skipped": "dim", "failed": "hot"}


def migration_card(record: MigrationRecord, state: State) -> MigrationCard:
    """A migration of the journal as the page shows it: prediction and measurement against today's thresholds."""
    result = record.result or ("running" if record.began else "pending")
    return MigrationCard(
        id=record.id,
        began=record.began,
        domain=domain_link(record.domain, record.uuid),
        source=host_link(record.source),
        destination=host_link(record.destination),
        result=Tag(_RESULT_KINDS.get(record.result or "", "warm"), result),
        why=record.why,
        took=wording.duration(record.seconds),
        downtime=wording.duration(record.downtime_seconds),
        ends=tuple(_measured_end(one, state) for one in record.predictions if one.resource == "cpu"),
    )


def _measured_end(one: PredictionRecord, state: State) -> MoveEnd:
    host = state.snapshot.host(one.host) if state.snapshot else None
    text = f"{Resource.CPU.use} predicted {wording.percent(one.predicted, 1)}"
    if one.measured is not None:
        text += f", measured {wording.percent(one.measured, 1)}"
    return MoveEnd(
        role=one.role,
        host=host_link(one.host),
        now=None,
        predicted=one.predicted,
        lower=one.lower,
        upper=one.upper,
        measured=one.measured,
        threshold=_threshold(host, Resource.CPU, state.policy),
        text=text,
        verdict=_verdict(one),
    )


def _threshold(host: Host | None, resource: Resource, policy: Policy) -> float:
    """The host's threshold; the common one of a host that is not seen."""
    return (policy.trigger(resource) if host is None else trigger_of(host, resource, policy)).threshold


def _verdict(one: PredictionRecord) -> str:
    """How far the measurement is from the prediction, or why there is no measurement."""
    if one.measured is None:
        return wording.unmeasured(one.verdict)
    verdict = f"off by {(one.measured - one.predicted) * 100:+.1f} points"
    if one.lower < one.upper:
        verdict += f", {'within' if one.lower <= one.measured <= one.upper else 'outside'} the interval"
    return verdict


def planned_end(
    role: str, name: str, hosts: Mapping[str, Host], predicted: Prediction, resource: Resource, policy: Policy
) -> MoveEnd:
    """One host of a move that the plan recommends, by the resource that it is made for."""
    host = hosts.get(name)
    ratio = predicted.ratio(resource)
    if ratio is None:  # an uplink whose use is unknown
        resource, ratio = Resource.CPU, predicted.cpu_ratio
    now = host.ratio(resource) if host is not None and host.known else None
    return MoveEnd(
        role=role,
        host=host_link(name),
        now=now,
        predicted=ratio,
        lower=ratio if (lower := predicted.lower(resource)) is None else lower,
        upper=ratio if (upper := predicted.upper(resource)) is None else upper,
        measured=None,
        threshold=_threshold(host, resource, policy),
        text=f"{resource.use} {wording.use(now)} now, predicted {wording.interval(predicted, resource)}",
    )
