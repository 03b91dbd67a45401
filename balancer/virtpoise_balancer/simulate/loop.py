"""Plays what happens to a group: one course without a balancer and one for each configuration, side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from virtpoise_balancer.analyse.demand import Mask
from virtpoise_balancer.config import Config
from virtpoise_balancer.control.cycle import Cycle, Report
from virtpoise_balancer.knowledge.in_memory import store_in_memory
from virtpoise_balancer.model import MigrationOutcome, Move, Policy, Reason
from virtpoise_balancer.plan import plan as make_plan
from virtpoise_balancer.plan.stream import limits_of
from virtpoise_balancer.simulate.clock import VirtualClock
from virtpoise_balancer.simulate.executor import SimulatedExecutor
from virtpoise_balancer.simulate.figures import RunFigures, Tally
from virtpoise_balancer.simulate.observer import SimulatedObserver
from virtpoise_balancer.simulate.quiet import Quiet
from virtpoise_balancer.simulate.script import Fleet, ScriptedOrder, StepDemand
from virtpoise_balancer.simulate.world import World, names

_MIB = 1 << 20
# How often the store forgets, in cycles, and how much it keeps of plans, which are not made again.
_FORGET_EVERY = 100
_KEEP_BYTES = 4 * _MIB
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOutcome:
    """What one course came to in one step. ``over``: the hosts over a threshold. ``ratio``: the use of each resource
    (resources x hosts), NaN where there are no figures.
    """

    time: float
    over: Mask
    ratio: np.ndarray
    report: Report | None


@dataclass(slots=True, kw_only=True)
class Course:
    """One group, step by step. A step is an interval of the configuration.

    ``start``: of the first step, in Unix seconds. ``balances``: whether there is a balancer, or only its thresholds.
    ``judge``: the policy whose thresholds the figures go by; None: the configuration's own.

    ``skips``: a cycle that would find nothing to do is left out (``quiet``). ``coarse``: what is asked in a step is a
    mean over the step already, so that no sample shows the step before.
    """

    fleet: Fleet
    start: float
    config: Config
    balances: bool = True
    skips: bool = True
    coarse: bool = False
    judge: Policy | None = None
    tally: Tally = field(init=False)
    world: World = field(init=False)
    draining: set[str] = field(default_factory=set)
    _clock: VirtualClock = field(init=False)
    _observer: SimulatedObserver = field(init=False)
    _balancer: _Balancer | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        config = self.config
        step, policy, measurement = config.interval_seconds, config.policy, config.measurement
        self._clock = VirtualClock(self.start)
        self.world = World(self.fleet, step)
        self.tally = Tally(self.fleet, self.judge or policy, step)
        self._observer = SimulatedObserver(
            fleet=self.fleet,
            step_seconds=step,
            consecutive=policy.cpu.consecutive,
            saturation_ratio=policy.saturation_ratio,
            settle_seconds=measurement.settle_seconds,
            window_seconds=measurement.window_seconds,
            blur_ratio=0.0 if self.coarse else config.scrape_interval_seconds / step,
            reach_back_seconds=0.0 if self.coarse else 1.5 * config.scrape_interval_seconds,
        )
        if self.balances:
            self._balancer = _Balancer(self.world, self._observer, self._clock, config, self._ended, skips=self.skips)

    def step(self, number: int, demand: StepDemand, *, changes_next: bool) -> StepOutcome:
        """Play a step. ``changes_next``: whether others do something in the next one."""
        world, step, balancer = self.world, self.config.interval_seconds, self._balancer
        began = self.start + number * step
        changed = world.begin(demand) and number > 0
        left = step
        while left > 0:
            span = min(left, balancer.executor.next_end_seconds() if balancer else left)
            world.advance(span)
            left = max(left - span, 0.0)
            self._clock.at = began + step - left
            if balancer and balancer.executor.busy:
                balancer.executor.settle()
        measured = world.measure()
        self._clock.at = began + step
        self._observer.take(measured, self._clock.at)
        over = self.tally.step(measured)
        report = None
        for order in demand.orders:
            self._order(order)
        if balancer:
            report = balancer.turn(acts_of_others=changed or changes_next or bool(demand.orders))
            if report:
                self.tally.cycle(report)
        ratio = np.where(measured.figures, measured.ratio, np.nan)
        return StepOutcome(time=self._clock.at, over=over, ratio=ratio, report=report)

    def figures(self) -> RunFigures:
        """What came of all steps so far."""
        broken, left = 0, 0
        if self.tally.steps:
            made = make_plan(self._observer.observe(self._clock.at).snapshot, self.config.policy)
            broken = sum(refusal.reason is Reason.RULE_BROKEN for refusal in made.refusals)
            numbers = [number for name, number in names(self.fleet).items() if name in self.draining]
            left = int(np.isin(self.world.at, numbers).sum())
        return self.tally.figures(rules_broken=broken, left_on_drained_hosts=left, not_followed=self.world.ignored)

    def _order(self, order: ScriptedOrder) -> None:
        (self.draining.add if order.draining else self.draining.discard)(order.host)
        if self._balancer:
            self._balancer.store.order_drain(order.host, draining=order.draining)

    def _ended(self, move: Move, outcome: MigrationOutcome) -> None:
        self.tally.ended(self.world, move, outcome)

    def __enter__(self) -> Course:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._balancer:
            self._balancer.store.close()


class _Balancer:
    """The product's cycle between a simulated observer and executor, with a store in memory."""

    def __init__(
        self,
        world: World,
        observer: SimulatedObserver,
        clock: VirtualClock,
        config: Config,
        on_end: Callable[[Move, MigrationOutcome], None],
        *,
        skips: bool,
    ) -> None:
        self._clock, self._observer = clock, observer
        self._keep_days, self._cycles = config.state.keep_days, 0
        self.store = store_in_memory(clock)

        def bandwidth(at: float) -> float | None:
            limit = config.migration.bandwidth_at(at)
            return None if limit is None else float(limit * _MIB)

        def ended(move: Move, outcome: MigrationOutcome) -> None:
            self._quiet.disturb(clock.now())
            on_end(move, outcome)

        self.executor = SimulatedExecutor(
            world=world,
            store=self.store,
            clock=clock,
            limits=limits_of(config.policy),
            timeout_seconds=config.migration.timeout_seconds,
            bandwidth=bandwidth,
            on_end=ended,
        )
        self._cycle = Cycle(
            observer=observer,
            store=self.store,
            executor=self.executor,
            policy=config.policy,
            measurement=config.measurement,
            clock=clock,
            mode="automatic",
        )
        self._quiet = Quiet(config, observer.sample_times, skips=skips)

    def turn(self, *, acts_of_others: bool) -> Report | None:
        """The report of a cycle; None where it would have found nothing to do."""
        now = self._clock.now()
        if acts_of_others:
            self._quiet.disturb(now)
        if not self.executor.busy and self._quiet.may_skip(now, self._observer.newest):
            self._cycle.remember(now, self._observer.readings)
            return None
        report = self._cycle.run(now)
        self.executor.go_on()
        self._cycles += 1
        if self._cycles % _FORGET_EVERY == 0:
            self.store.forget(now, keep_days=self._keep_days, keep_bytes=_KEEP_BYTES)
        self._quiet.ran(now, report)
        return report


def play(courses: Sequence[Course], steps: Iterable[Sequence[StepDemand]]) -> Iterator[list[StepOutcome]]:
    """The looks of all courses after each step. ``steps``: what each step asks of each course.

    What others do is the same in all of them.
    """
    for number, (demands, following) in enumerate(_with_next(iter(steps))):
        first = demands[0]
        changes = following is not None and bool((following[0].home != first.home).any() or following[0].orders)
        yield [one.step(number, demand, changes_next=changes) for one, demand in zip(courses, demands, strict=True)]


def _with_next(items: Iterator[_T]) -> Iterator[tuple[_T, _T | None]]:
    """Each item with the one that follows it, None after the last."""
    one = next(items, None)
    for following in items:
        if one is not None:
            yield one, following
        one = following
    if one is not None:
        yield one, None
