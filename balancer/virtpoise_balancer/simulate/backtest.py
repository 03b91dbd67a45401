"""What the balancer would have done with a recorded group, beside what happened without it.

A domain's demand is known where its host had room: it is what it ran. Where vCPUs waited it lies between what they ran
and what they ran and waited for. So all is played twice where that matters, with the lower and with the upper end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

import numpy as np

from virtpoise_balancer.analyse.demand import Floats
from virtpoise_balancer.config import Config
from virtpoise_balancer.model import Policy, Resource, Trigger
from virtpoise_balancer.monitor.history import Part, PastGroup
from virtpoise_balancer.simulate.loop import Course, StepOutcome, play
from virtpoise_balancer.simulate.recording import demands, fleet_of
from virtpoise_balancer.simulate.script import StepDemand
from virtpoise_balancer.simulate.tables import Bracket

WITHOUT = "without"
# Where vCPUs waited for less than this share of what they ran, nothing is hidden that would matter.
_HIDDEN_RATIO = 0.01
# Samples of a prediction's window: a step of the history may be as long as the window.
_WINDOW_STEPS = 4
_HOUR = 3600.0
_WORST_HOURS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class WorstHour:
    """The hour of a backtest with the most overload.

    ``start``: Unix seconds. ``minutes``: of hosts over a threshold without the balancer. ``hosts``: the worst ones.

    ``loads``: by course, the CPU load of these hosts (hosts x steps), with the least demand.
    """

    start: float
    minutes: float
    hosts: tuple[str, ...]
    loads: Mapping[str, Floats]


@dataclass(slots=True, kw_only=True)
class Backtest:
    """What came of it, by the thresholds of the first configuration.

    ``courses``: by name, ``WITHOUT`` first. ``hours``: for each course, the host-minutes over a
    threshold in each hour from the start on, with the least demand.

    ``gaps``: times without figures of any host (from, to, in Unix seconds). ``known_ratio``: how much of the time each
    host had figures. ``left_out``: domains that are not in the inventory. ``readings``: how many steps in a row make an
    overload, by course. ``hidden_core_hours``: for how long vCPUs waited; None where that is not recorded.
    ``bracketed``: whether the two ends were played. ``made_at``: Unix seconds.
    """

    inventory: PastGroup
    courses: Mapping[str, Bracket]
    hours: Mapping[str, Floats]
    worst: tuple[WorstHour, ...]
    gaps: tuple[tuple[float, float], ...]
    known_ratio: Mapping[str, float]
    left_out: int
    readings: Mapping[str, int]
    ran_core_hours: float
    hidden_core_hours: float | None
    bracketed: bool
    made_at: float


def at_step(config: Config, step_seconds: float) -> Config:
    """The configuration for a look every ``step_seconds``: N samples become the steps that last as long."""
    policy = config.policy
    scaled: dict[str, Trigger] = {}
    for name in ("cpu", "memory", "network"):
        trigger: Trigger = getattr(policy, name)
        steps = max(math.ceil(trigger.consecutive * config.interval_seconds / step_seconds), 1)
        scaled[name] = replace(trigger, consecutive=steps)
    window = max(config.measurement.window_seconds, _WINDOW_STEPS * step_seconds)
    settings: Policy = replace(policy, **scaled)  # type: ignore[arg-type]
    return config.model_copy(
        update={
            "interval_seconds": step_seconds,
            "policy": settings,
            "measurement": config.measurement.model_copy(update={"window_seconds": window}),
        }
    )


def backtest(
    inventory: PastGroup,
    parts: Iterable[Part],
    configs: Mapping[str, Config],
    progress: Callable[[int], None] = lambda _steps: None,
    *,
    now: float,
) -> Backtest:
    """Play the parts with each configuration. ``progress``: called with the number of steps that are done."""
    scaled = {name: at_step(config, inventory.step_seconds) for name, config in configs.items()}
    return _Play(inventory, scaled).run(parts, progress, now)


@dataclass(slots=True)
class _Play:
    inventory: PastGroup
    configs: Mapping[str, Config]
    _hours: dict[str, list[float]] = field(default_factory=dict)
    _hour_loads: dict[str, list[Floats]] = field(default_factory=dict)
    _hour_over: list[Floats] = field(default_factory=list)  # hosts over a threshold without a balancer
    _worst: list[WorstHour] = field(default_factory=list)
    _dark: list[tuple[float, float]] = field(default_factory=list)
    _left_out: int = 0
    _ran: float = 0.0
    _waited: float = 0.0

    def run(self, parts: Iterable[Part], progress: Callable[[int], None], now: float) -> Backtest:
        bracketed = (self.inventory.waited_ratio or 0.0) > _HIDDEN_RATIO
        names = [WITHOUT, *self.configs]
        self._hours = {name: [] for name in names}
        known = np.zeros(len(self.inventory.hosts))
        steps = 0
        with ExitStack() as stack:
            courses = [
                stack.enter_context(self._course(name, hidden=hidden))
                for hidden in ((False, True) if bracketed else (False,))
                for name in names
            ]
            for steps, looks in enumerate(play(courses, self._steps(parts, len(names), bracketed=bracketed)), 1):
                known += ~np.isnan(looks[0].ratio[Resource.CPU.row])
                self._hour(steps - 1, dict(zip(names, looks, strict=False)))
                progress(steps)
            ends = [course.figures() for course in courses]
        return Backtest(
            inventory=self.inventory,
            courses={
                name: Bracket(lower=ends[at], upper=ends[at + len(names)] if bracketed else ends[at])
                for at, name in enumerate(names)
            },
            hours={name: np.array(values) for name, values in self._hours.items()},
            worst=tuple(sorted(self._worst, key=lambda one: one.start)),
            gaps=tuple(self._dark),
            known_ratio={host.name: float(known[at]) / max(steps, 1) for at, host in enumerate(self.inventory.hosts)},
            left_out=self._left_out,
            readings={name: config.policy.cpu.consecutive for name, config in self.configs.items()},
            ran_core_hours=self._ran,
            hidden_core_hours=None if self.inventory.waited_ratio is None else self._waited,
            bracketed=bracketed,
            made_at=now,
        )

    def _course(self, name: str, *, hidden: bool) -> Course:
        first = next(iter(self.configs.values()))
        config = self.configs.get(name, first)
        return Course(
            fleet=fleet_of(self.inventory, hidden=hidden),
            start=self.inventory.start,
            config=config,
            balances=name != WITHOUT,
            coarse=True,
            judge=first.policy,
        )

    def _steps(self, parts: Iterable[Part], names: int, *, bracketed: bool) -> Iterator[list[StepDemand]]:
        fleet, step = fleet_of(self.inventory, hidden=False), self.inventory.step_seconds
        at = self.inventory.start
        for part in parts:
            self._left_out = max(self._left_out, part.left_out)
            self._ran += float(part.cores.sum()) * step / _HOUR
            self._waited += float(part.delay.sum()) * step / _HOUR
            lower = demands(part, fleet, hidden=False)
            upper = demands(part, fleet, hidden=True) if bracketed else lower
            for low, high in zip(lower, upper, strict=True) if bracketed else ((one, one) for one in lower):
                if not low.seen.any():
                    self._note_gap(at, at + step)
                at += step
                yield [low] * names + ([high] * names if bracketed else [])

    def _note_gap(self, start: float, end: float) -> None:
        if self._dark and self._dark[-1][1] == start:
            start = self._dark.pop()[0]
        self._dark.append((start, end))

    def _hour(self, step: int, looks: Mapping[str, StepOutcome]) -> None:
        """Count an hour's overload, and keep the loads of the worst hours."""
        per_hour = max(round(_HOUR / self.inventory.step_seconds), 1)
        minutes = self.inventory.step_seconds / 60
        if step % per_hour == 0:
            self._close_hour()
            for values in self._hours.values():
                values.append(0.0)
        for name, look in looks.items():
            self._hours[name][-1] += float(look.over.sum()) * minutes
            self._hour_loads.setdefault(name, []).append(look.ratio[Resource.CPU.row])
        self._hour_over.append(looks[WITHOUT].over.astype(float))
        if step == self.inventory.steps - 1:
            self._close_hour()

    def _close_hour(self) -> None:
        if self._hour_over:
            over = np.sum(self._hour_over, axis=0)
            minutes = float(over.sum()) * self.inventory.step_seconds / 60
            least = min((one.minutes for one in self._worst), default=0.0)
            if minutes > 0 and (len(self._worst) < _WORST_HOURS or minutes > least):
                worst = [int(at) for at in np.argsort(-over, kind="stable")[:_WORST_HOURS] if over[at] > 0]
                hour = len(self._hours[WITHOUT]) - 1
                self._worst.append(
                    WorstHour(
                        start=self.inventory.start + hour * _HOUR,
                        minutes=minutes,
                        hosts=tuple(self.inventory.hosts[at].name for at in worst),
                        loads={name: np.stack(loads)[:, worst].T for name, loads in self._hour_loads.items()},
                    )
                )
                self._worst = sorted(self._worst, key=lambda one: -one.minutes)[:_WORST_HOURS]
        self._hour_loads, self._hour_over = {}, []
