"""Plays a run of the campaign: a group of hosts with a task, faults from a seed, healing, a person who goes by the
alerts, and the oracle.
"""

from __future__ import annotations

import gc
import resource
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import structlog

from virtpoise_lab.campaign import beside, faults
from virtpoise_lab.campaign.faults.of_migrations import LONG_COPY_SECONDS, need_aborts, need_copies, need_facts
from virtpoise_lab.campaign.machines import Machine
from virtpoise_lab.campaign.run import Run
from virtpoise_lab.campaign.stage import BEGAN, INTERVAL_SECONDS, THRESHOLD_RATIO, Setting

_CALM_SECONDS = 60.0
_UNFORESEEN = "unforeseen: "  # how the sentence of a turn that failed by a fault of the code begins
_KEPT_LINES = 1000  # of the trace of a run of hours
_HOSTS = ("h1", "h2", "h3", "h4")
# For a drain or an overload once all is well again, with back-off and all.
_TASK_SECONDS = 600.0
# How often a person looks at the alerts until then.
_ALERT_SECONDS = 60.0
# The shares of all seeds in which the balancer asks hosts what they would refuse, and domains have disks of their own.
_WITH_FACTS, _WITH_COPIES = 0.4, 0.2


@dataclass(frozen=True)
class Outcome:
    """How a run ended. ``violations``: what must not be, in words; empty for a good run. ``trace``: what happened."""

    seed: int
    faults: tuple[str, ...]
    violations: tuple[str, ...]
    trace: tuple[str, ...]
    seconds: float
    migrations: int
    doubled: bool
    lost: bool


@dataclass(frozen=True)
class Figures:
    """What the balancer holds. ``memory_bytes`` and ``descriptors``: of the whole process, with the model in it.

    ``threads``: of the balancer. ``violations``: found so far.
    """

    hour: int
    memory_bytes: int
    threads: int
    descriptors: int
    violations: tuple[str, ...]

    @classmethod
    def now(cls, hour: int, run: Run) -> Figures:
        gc.collect()
        resident_pages = int(Path("/proc/self/statm").read_text().split()[1])
        return cls(
            hour=hour,
            memory_bytes=resident_pages * resource.getpagesize(),
            threads=sum(len(balancer.process.tasks) for balancer in run.balancers),
            descriptors=len(list(Path("/proc/self/fd").iterdir())),
            violations=tuple(run.oracle.violations),
        )


class Play(Run):
    """Plays a run of the campaign on virtual time."""

    def __init__(self, seed: int, names: Sequence[str] | None = None, groups: int | None = None) -> None:
        """Prepare a run.

        ``names``: of the faults; None for some that the seed chooses. ``groups``: how many; None for as many as the
        seed chooses, if it chooses the faults as well, and else one.
        """
        chosen = tuple(names or _chosen(seed))
        chooses = groups is None and names is None
        self._beside = beside.drawn(seed, None if chooses else groups or 1)
        still = self._beside.choice(beside.STILL) if self._beside else ""
        draws_facts = Random(seed + 4_000_000_007)  # a seed with these names given plays as before
        copies = need_copies(chosen) or (not names and draws_facts.random() < _WITH_COPIES)
        asks_for_facts = copies or need_facts(chosen)
        asks_for_facts |= not names and draws_facts.random() < _WITH_FACTS
        super().__init__(
            seed,
            Setting(
                faults=chosen,
                short=need_aborts(chosen),
                copies=copies,
                asks_for_facts=asks_for_facts,
                group=beside.FIRST if self._beside else "",
                still=still,
                groups=beside.configured(still) if self._beside else "",
            ),
        )

    def play(self) -> Outcome:
        with _uncollected(), self._whole():
            self._play()
        return Outcome(
            seed=self.seed,
            faults=self.setting.faults,
            violations=tuple(dict.fromkeys(self.oracle.violations)),
            trace=tuple(self.trace),
            seconds=self.kernel.at - BEGAN,
            migrations=sum(job.ours for job in self.world.jobs),
            doubled=self.oracle.doubled,
            lost=self.oracle.lost,
        )

    def last(self, hours: int) -> Iterator[Figures]:
        """What the balancer holds at each hour of a run whose faults last to its end."""
        with self._whole():
            self._begin()
            for name in self.setting.faults:
                self.kernel.after(_CALM_SECONDS, partial(faults.at_once, self, name, hours * 3600.0))
            for hour in range(hours + 1):
                self.kernel.run(BEGAN + hour * 3600.0 + 1.0)
                yield Figures.now(hour, self)
                del self.trace[:-_KEPT_LINES]

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """In the block, what is logged is noted; after it nothing of the run goes on."""
        try:
            with _logged(self._logged):
                yield
        finally:
            for balancer in self.balancers:
                if balancer.process.alive:
                    balancer.kill()
            self.kernel.kill(self.world.process)
            self._folder.cleanup()

    def _begin(self) -> None:
        self._set_up()
        self.server.start(_CALM_SECONDS)
        self.start_balancer()
        if self.draining:
            self.kernel.after(12.0, lambda: self.person.order_drain(str(self.draining)))

    def _play(self) -> None:
        self._begin()
        for name in self.setting.faults:
            faults.plan(self, name)
        self.kernel.run(BEGAN + 400.0, lambda: self.pending == 0)
        while self.kernel.at < self.healed_at:
            self.kernel.run(self.healed_at)
        self.world.perform_seconds = min(self.world.perform_seconds, 8.0)  # well below each time-out
        self._settle()
        self.oracle.after_healing()
        if self.person.mend():
            self._settle()
            self.oracle.after_mending()
        until = self.kernel.at + _TASK_SECONDS
        self._work_until(until)
        self._settle_migrations()
        if not self.oracle.task_is_done():  # an administrator's migration that was under way has undone it
            self._work_until(until)
            self._settle_migrations()
        self.oracle.at_end()

    def _work_until(self, end: float) -> None:
        """Until the task is done, or that time."""
        while not self.oracle.task_is_done() and self.kernel.at < end:
            self.kernel.run(min(self.kernel.at + _ALERT_SECONDS, end), self.oracle.task_is_done)
            self.person.release()

    def _settle(self) -> None:
        """Five intervals."""
        self.kernel.run(self.kernel.at + 5 * INTERVAL_SECONDS)

    def _settle_migrations(self) -> None:
        """Wait until no migration is under way or about to begin, nor has been for a while."""
        for _ in range(20):
            if not self.oracle.something_is_being_made():
                return
            self.kernel.run(self.kernel.at + INTERVAL_SECONDS)

    def _set_up(self) -> None:
        random = self.random
        names = _HOSTS[: random.choice((3, 3, 4))]
        for name in names:
            self.world.machines[name] = Machine(name, group=self.setting.group)
        self.world.perform_seconds = random.choice((3.0, 8.0, 20.0))
        limit = THRESHOLD_RATIO * 8
        drains = random.random() < 0.4
        wanted = {name: random.uniform(0.15, 0.45) * limit for name in names}
        wanted["h1"] = limit * (random.uniform(0.3, 0.6) if drains else random.uniform(1.05, 1.2))
        if not drains and Random(self.seed + 2_000_000_011).random() < 0.3:
            wanted[names[-1]] = limit * 0.88  # a wrong choice would push this one over its threshold
        for name in names:
            self.world.fill(name, wanted[name], random, named="vm", uuids="00000000-0000-4000-8000-")
        if need_aborts(self.setting.faults):
            self.world.perform_seconds = LONG_COPY_SECONDS
        if drains:
            self.draining = "h1"
        if self._beside:
            beside.set_up(self, self._beside, limit)
        if self.setting.copies:
            self.world.lay_disks()
        self.oracle.begin()

    def _logged(self, level: str, text: str, values: Mapping[str, Any]) -> None:
        task = self.kernel.current
        who = task.process.name if task else "?"
        shown = " ".join(f"{key}={value}" for key, value in values.items() if key not in ("exc_info", "seconds"))
        self.note(f"{who} [{level}] {text} {shown}".rstrip())
        if values.get("exc_info") or text.startswith(_UNFORESEEN):
            self.oracle.exception(text)


def _chosen(seed: int) -> tuple[str, ...]:
    random = Random(seed + 1_000_000_007)  # so that a seed with these names given plays the same
    number = random.choice((1, 1, 2, 2, 3))
    return tuple(random.choice(sorted(faults.FAULTS)) for _ in range(number))


@contextmanager
def _logged(keep: Callable[[str, str, Mapping[str, Any]], None]) -> Iterator[None]:
    """In the block, all that the balancer logs goes to ``keep`` alone."""

    def catch(_logger: object, level: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
        keep(level, str(event.pop("event")), event)
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(processors=[catch], wrapper_class=structlog.BoundLogger, cache_logger_on_first_use=False)
    try:
        yield
    finally:
        structlog.configure(**before)


@contextmanager
def _uncollected() -> Iterator[None]:
    """In the block, Python collects no garbage: a run makes little, and a collection looks at all its objects."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def last(seed: int, names: Sequence[str], hours: int) -> Iterator[Figures]:
    """Play one seed for hours, and its faults with it."""
    return Play(seed, names).last(hours)


def play(seed: int, names: Sequence[str] | None = None, groups: int | None = None) -> Outcome:
    """Play one seed."""
    return Play(seed, names, groups).play()
