"""The values that go into the store and come out of it. Times are Unix seconds. No database here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from virtpoise_balancer.analyse.backoff import Backoff, Backoffs
from virtpoise_balancer.analyse.brake import Brake, TrackRecord
from virtpoise_balancer.analyse.commitments import Commitment
from virtpoise_balancer.analyse.drains import DrainOrders
from virtpoise_balancer.analyse.learned import Learned
from virtpoise_balancer.analyse.measure import DuePrediction, Measured
from virtpoise_balancer.analyse.others import OthersChange, Sightings
from virtpoise_balancer.model import (
    Cause,
    Entries,
    Facts,
    JournalEntry,
    Mode,
    Plan,
    Policy,
    Result,
    Role,
    Snapshot,
    Unsettled,
)
from virtpoise_balancer.plan.subset import Choice


@dataclass(frozen=True, slots=True, kw_only=True)
class OverrideValue:
    """A value that ``who`` set ``at`` a time when the configuration said ``instead_of``."""

    value: str
    instead_of: str
    at: float
    who: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Overrides:
    """What a person has set over the configuration; None where no one has. While ``paused`` no migration begins.

    ``released``: the last release of a brake.
    """

    paused: OverrideValue | None = None
    mode: OverrideValue | None = None
    released: OverrideValue | None = None

    @property
    def released_at(self) -> float | None:
        """When a brake was last released (Unix seconds)."""
        return self.released.at if self.released else None

    def mode_over(self, configured: Mode) -> Mode:
        """The effective mode: the newer of what a person set and what the configuration says."""
        if self.mode is None or self.mode.instead_of != configured:
            return configured
        return "automatic" if self.mode.value == "automatic" else "recommend"


@dataclass(frozen=True, slots=True, kw_only=True)
class StandingOrders:
    """What people have ordered and not taken back. ``drains``: the newest order for each host."""

    overrides: Overrides = Overrides()
    drains: DrainOrders = field(default_factory=dict)


# Who gave an order that brought no known token. No user and no token has this name.
STRANGER = "?"


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """An order, followed or refused.

    ``origin``: "command", or the address it came from. ``answer``: the reply to it.
    """

    at: float
    who: str
    origin: str
    action: str
    target: str = ""
    accepted: bool
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionRecord:
    """A prediction and, once it has a ``verdict`` (``PredictionVerdict``), how it came out."""

    host: str
    role: Role
    resource: str
    made: float
    predicted: float
    lower: float
    upper: float
    measured: float | None
    error: float | None
    verdict: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationRecord:
    """A migration as the history shows it. ``began`` and ``result`` are None until it has begun and ended."""

    id: int
    plan_id: int
    domain: str
    uuid: str
    source: str
    destination: str
    began: float | None
    ended: float | None
    result: str | None
    why: str
    seconds: float | None
    downtime_seconds: float | None
    transferred_bytes: int | None
    dirty_bytes_per_second: float | None
    predictions: tuple[PredictionRecord, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CycleRecord:
    """Cycles in a row that came to the same.

    ``sentence``: of the newest of them; only its figures may differ from the first.
    """

    first: float
    last: float
    cycles: int
    result: str
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRecord:
    """A stored plan in short.

    ``acted``: its moves were made, not only recommended. ``replayable``: what it was made from is kept.
    """

    id: int
    made: float
    strategy: str
    acted: bool
    solved: bool
    moves: int
    summary: str
    replayable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What a plan was made from. ``wanted``: the moves that a person chose from the plan, or None for the whole plan.

    ``version``: the version of virtpoise that made the plan.
    """

    snapshot: Snapshot
    policy: Policy
    wanted: frozenset[Choice] | None = None
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PastPlan:
    """A stored plan with how each of its moves went."""

    record: PlanRecord
    plan: Plan
    migrations: tuple[MigrationRecord, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NewestPlan:
    """The plan that was stored last. ``made``: in Unix seconds. ``gist``: as ``NewPlan`` has it."""

    made: float
    gist: str
    acted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class NewestCycle:
    """The row of ``CycleRecord`` that the next cycle may extend."""

    id: int
    result: str
    gist: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedPlan:
    """A plan that was acted on and whose moves have all ended.

    ``results`` and ``causes``: of its moves, in order. ``ended``: when the last did.
    """

    id: int
    plan: Plan
    results: tuple[Result, ...]
    ended: float
    causes: tuple[Cause | None, ...] = ()

    @property
    def without_refused(self) -> tuple[Result, ...]:
        """The results; a move that libvirt refused counts as one that was skipped: the next plan knows of it."""
        causes = self.causes or (None,) * len(self.results)
        return tuple(
            Result.SKIPPED if cause is Cause.REFUSED else result
            for result, cause in zip(self.results, causes, strict=True)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """All that a cycle reads, as it was at one moment. ``ended_plans``: those not settled yet, oldest first.

    ``watched``: the migrations that the world is asked about. ``commitments``: oldest first. ``brake``: pulled last,
    whether it was released or not. ``sightings``: of the newest look. ``others``: the changes by others in the last
    hours, oldest first. ``elsewhere``: what keeps other groups off hosts, which may have come to this group since.
    ``facts``: of libvirt, as they are known to whoever reads. ``broken``: one line for each row that could not be read
    and was left out.
    """

    orders: StandingOrders = StandingOrders()
    backoffs: Backoffs = field(default_factory=dict)
    learned: Learned = field(default_factory=Learned)
    ended_plans: tuple[EndedPlan, ...] = ()
    due: tuple[DuePrediction, ...] = ()
    watched: tuple[JournalEntry, ...] = ()
    commitments: tuple[Commitment, ...] = ()
    brake: Brake | None = None
    track_record: TrackRecord = field(default_factory=TrackRecord)
    sightings: Sightings | None = None
    others: tuple[OthersChange, ...] = ()
    elsewhere: tuple[Unsettled, ...] = ()
    newest_plan: NewestPlan | None = None
    newest_cycle: NewestCycle | None = None
    facts: Facts = field(default_factory=Facts)
    broken: tuple[str, ...] = ()

    def is_ahead_of(self, now: float) -> bool:
        """Whether some of it was dated after ``now`` (Unix seconds), by a clock that was ahead."""
        dates = [
            *(one.ended for one in self.commitments),
            *(one.at for one in self.orders.drains.values()),
            *(one.penalty_from for one in self.backoffs.values()),
            self.orders.overrides.released_at,
            self.brake.at if self.brake else None,
        ]
        return any(at is not None and at > now for at in dates)


@dataclass(frozen=True, slots=True, kw_only=True)
class Leader:
    """A balancer that acts, or did.

    ``term``: its number; a later leader has a higher one. ``seen``: when it last wrote, by its clock.
    """

    term: int
    holder: str
    since: float
    seen: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NewPlan:
    """A plan to be stored with what it was made from.

    Plans with the same ``gist`` want the same moves for the same problems.
    """

    plan: Plan
    gist: str
    acted: bool
    snapshot: Snapshot
    policy: Policy
    wanted: frozenset[Choice] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewCycle:
    """What a cycle did. ``extends``: the id of the row that it extends, or None for a row of its own."""

    at: float
    result: str
    sentence: str
    gist: str
    extends: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What a cycle saw of the domains' places. ``same``: only its time differs from the look before.

    ``changes``: those by others.
    """

    sightings: Sightings
    changes: tuple[OthersChange, ...]
    same: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """All that a cycle writes.

    ``settled``: ids of plans. ``backoffs``: only those that changed. ``verdicts``: by the prediction's id.
    ``brake``: to be pulled.
    """

    settled: tuple[int, ...] = ()
    backoffs: tuple[Backoff, ...] = ()
    verdicts: Mapping[int, Measured] = field(default_factory=dict)
    plan: NewPlan | None = None
    cycle: NewCycle | None = None
    brake: Brake | None = None
    look: Look | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """What came of writing. ``entries``: the new plan's moves with their ids, if it is acted on.

    ``open_predictions``: those without a verdict.
    """

    entries: Entries = ()
    open_predictions: tuple[PredictionRecord, ...] = ()
