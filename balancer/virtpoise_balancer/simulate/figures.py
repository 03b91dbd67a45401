"""What a run came to: counted step by step (``Tally``), and as values in the end (``RunFigures``)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields

import numpy as np

from virtpoise_balancer.analyse.demand import Floats, Mask
from virtpoise_balancer.analyse.host_limits import trigger_of
from virtpoise_balancer.control.cycle import Report
from virtpoise_balancer.control.decide import CycleResult
from virtpoise_balancer.model import Host, MigrationOutcome, Move, Policy, Resource, Result
from virtpoise_balancer.simulate.script import Fleet
from virtpoise_balancer.simulate.world import StepFigures, World, names

_GIB = 2**30
_MINUTE = 60.0
_MOST_SENTENCES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFigures:
    """The figures of one run, or of several together.

    ``overload_host_minutes``: hosts at or above a threshold, and by resource in ``overload_by_resource``.
    ``spells_minutes``: how long each host was so without a break. ``waited_core_hours``: for how long vCPUs that could
    run had no CPU. ``gib``: copied by migrations. ``moved_more_than_once``: domains. ``back_and_forths``: moves of a
    domain to a host that it was moved away from. ``pushed_over``: moves that brought their destination over a
    threshold. ``rules_broken``: domains that are where a rule does not want them, at the end. ``refusals``: by reason,
    of the plans that attempted something. ``not_followed``: what others did with domains that the balancer had moved.
    ``brakes_pulled``: how often its brake was pulled; no one releases it. ``sentences``: of failed
    cycles and brakes, the first few.
    """

    hours: float = 0.0
    overload_host_minutes: float = 0.0
    overload_by_resource: Mapping[str, float] = field(default_factory=dict)
    spells_minutes: tuple[float, ...] = ()
    waited_core_hours: float = 0.0
    moves: int = 0
    gib: float = 0.0
    failed_moves: int = 0
    skipped_moves: int = 0
    moved_more_than_once: int = 0
    back_and_forths: int = 0
    pushed_over: int = 0
    rules_broken: int = 0
    left_on_drained_hosts: int = 0
    refusals: Mapping[str, int] = field(default_factory=dict)
    not_followed: int = 0
    failed_cycles: int = 0
    brakes_pulled: int = 0
    sentences: tuple[str, ...] = ()

    @property
    def longest_overload_minutes(self) -> float:
        return max(self.spells_minutes, default=0.0)

    def relieved_ratio(self, within_minutes: float) -> float:
        """The share of overloads that lasted this long at most; 1 without any."""
        if not self.spells_minutes:
            return 1.0
        return sum(one <= within_minutes for one in self.spells_minutes) / len(self.spells_minutes)


def together(runs: Sequence[RunFigures]) -> RunFigures:
    """The sums over several runs."""
    total: dict[str, object] = {}
    for one in fields(RunFigures):
        values = [getattr(run, one.name) for run in runs]
        if isinstance(values[0], Mapping):
            counted: Counter[str] = Counter()
            for value in values:
                counted.update(value)
            total[one.name] = dict(sorted(counted.items()))
        elif isinstance(values[0], tuple):
            total[one.name] = tuple(item for value in values for item in value)
        else:
            total[one.name] = sum(values)
    return RunFigures(**total)  # type: ignore[arg-type]


def thresholds(fleet: Fleet, policy: Policy) -> Floats:
    """The threshold of each resource of each host (resources x hosts); infinite where it is not watched."""
    found = np.full((len(Resource), fleet.hosts), np.inf)
    for number in range(fleet.hosts):
        host = Host(
            name=fleet.host_names[number],
            cpus=int(fleet.cpus[number]),
            memory_bytes=int(fleet.host_memory_bytes[number]),
            labels=fleet.labels[number] if fleet.labels else {},
        )
        for resource in policy.traits.watched:
            found[resource.row, number] = trigger_of(host, resource, policy).threshold
    return found


@dataclass(slots=True)
class Tally:
    """Counts one run."""

    fleet: Fleet
    policy: Policy
    step_seconds: float
    steps: int = 0
    over: Floats = field(init=False)  # minutes, resources
    over_any: float = 0.0
    waited: float = 0.0  # core seconds
    spells: list[float] = field(default_factory=list)
    bytes_copied: float = 0.0
    results: Counter[Result] = field(default_factory=Counter)
    moved: Counter[str] = field(default_factory=Counter)  # by uuid
    left: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))  # hosts, by uuid
    back: int = 0
    pushed: int = 0
    refusals: Counter[str] = field(default_factory=Counter)
    failed_cycles: int = 0
    brakes: int = 0
    sentences: list[str] = field(default_factory=list)
    _thresholds: Floats = field(init=False)  # resources x hosts
    _spell: Floats = field(init=False)  # minutes so far (hosts)

    def __post_init__(self) -> None:
        self.over = np.zeros(len(Resource))
        self._spell = np.zeros(self.fleet.hosts)
        self._thresholds = thresholds(self.fleet, self.policy)

    def step(self, measured: StepFigures) -> Mask:
        """Count a step. The hosts that were over a threshold in it."""
        self.steps += 1
        minutes = self.step_seconds / _MINUTE
        with np.errstate(invalid="ignore"):
            over = (measured.ratio >= self._thresholds) & measured.figures
        hosts: Mask = np.logical_or.reduce(over)
        self.over += over.sum(axis=1) * minutes
        self.over_any += float(hosts.sum()) * minutes
        self.waited += float(measured.delay.sum()) * self.step_seconds
        ended = self._spell[~hosts & (self._spell > 0)]
        self.spells += ended.tolist()
        self._spell = np.where(hosts, self._spell + minutes, 0.0)
        return hosts

    def ended(self, world: World, move: Move, outcome: MigrationOutcome) -> None:
        """Count the end of a move, while its domain is still on its source."""
        self.results[outcome.result] += 1
        self.bytes_copied += outcome.transferred_bytes or 0
        if outcome.result is not Result.DONE:
            return
        self.back += move.destination in self.left[move.uuid]
        self.left[move.uuid].add(move.source)
        self.moved[move.uuid] += 1
        self.pushed += self._pushes(world, world.fleet.uuids.index(move.uuid), names(world.fleet)[move.destination])

    def _pushes(self, world: World, domain: int, host: int) -> bool:
        """Whether the domain brings the host from below one of its thresholds to it or above."""
        demand, fleet = world.demand, world.fleet
        there = world.at == host
        for row, have, own, wanted in (
            (Resource.CPU.row, fleet.cpus[host], demand.own_cores[host], demand.cores),
            (Resource.MEMORY.row, fleet.host_memory_bytes[host], demand.own_memory_bytes[host], demand.memory_bytes),
        ):
            before = float(own + wanted[there].sum()) / have
            if before < self._thresholds[row, host] <= before + float(wanted[domain]) / have:
                return True
        return False

    def cycle(self, report: Report) -> None:
        if report.result is CycleResult.FAILED:
            self.failed_cycles += 1
            self._note(f"a cycle failed: {report.sentence}")
        if report.standing.pulled and report.standing.brake is not None:
            self.brakes += 1
            self._note(f"the brake was pulled: {report.standing.brake.why}")
        if report.plan is not None and report.plan.attempts:
            self.refusals.update(refusal.reason.value for refusal in report.plan.refusals)

    def _note(self, sentence: str) -> None:
        if len(self.sentences) < _MOST_SENTENCES:
            self.sentences.append(sentence)

    def figures(self, *, rules_broken: int, left_on_drained_hosts: int, not_followed: int) -> RunFigures:
        return RunFigures(
            hours=self.steps * self.step_seconds / 3600,
            overload_host_minutes=self.over_any,
            overload_by_resource={one.value: float(self.over[one.row]) for one in Resource if self.over[one.row]},
            spells_minutes=(*self.spells, *self._spell[self._spell > 0].tolist()),
            waited_core_hours=self.waited / 3600,
            moves=self.results[Result.DONE],
            gib=self.bytes_copied / _GIB,
            failed_moves=self.results[Result.FAILED],
            skipped_moves=self.results[Result.SKIPPED],
            moved_more_than_once=sum(count > 1 for count in self.moved.values()),
            back_and_forths=self.back,
            pushed_over=self.pushed,
            rules_broken=rules_broken,
            left_on_drained_hosts=left_on_drained_hosts,
            refusals=dict(sorted(self.refusals.items())),
            not_followed=not_followed,
            failed_cycles=self.failed_cycles,
            brakes_pulled=self.brakes,
            sentences=tuple(self.sentences),
        )
