"""Makes journalled moves in the simulated world, each as soon as ``plan.stream`` lets it begin.

The journal, the last look before each move and the limits in flight are those of production; the migrations are not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Set
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

from virtpoise_balancer.execute.executor import InFlight, Recheck
from virtpoise_balancer.knowledge.store import Store
from virtpoise_balancer.model import Cause, Entries, Limits, MigrationOutcome, Move, Progress, Result
from virtpoise_balancer.plan.stream import Item, Stage, counts_on, hopeless, ready, withdrawable
from virtpoise_balancer.simulate.clock import VirtualClock
from virtpoise_balancer.simulate.world import World, names

# How long a domain's CPUs stand still at the end of its migration (docs/migrations.md).
_DOWNTIME_SECONDS = 0.25
_SOON_SECONDS = 1e-6


@dataclass(slots=True)
class _Migration:
    """One under way. ``fails``: after this many seconds, and why."""

    item: Item
    began: float
    fails: tuple[float, str, Cause] | None = None


@dataclass(slots=True)
class SimulatedExecutor:
    """Carries out moves in the simulated world.

    ``timeout_seconds``: after that a migration is aborted. ``bandwidth``: the limit in bytes per second at a time in
    Unix seconds, or None. ``on_end``: called with each move that has ended, right before its domain changes its place.
    """

    world: World
    store: Store
    clock: VirtualClock
    limits: Limits
    timeout_seconds: float
    bandwidth: Callable[[float], float | None]
    on_end: Callable[[Move, MigrationOutcome], None]
    _items: dict[int, Item] = field(default_factory=dict)  # by the id in the journal
    _rechecks: dict[int, Recheck] = field(default_factory=dict)  # by the number of the plan
    _under_way: dict[int, _Migration] = field(default_factory=dict)  # by the id in the journal

    @property
    def in_flight(self) -> tuple[InFlight, ...]:
        found = []
        for id_, one in self._under_way.items():
            copying = self.world.copying[id_]
            left = int(max(copying.left_bytes, 0.0))
            copied = int(copying.copied_bytes)
            progress = Progress(
                elapsed_seconds=copying.seconds,
                total_bytes=copied + left,
                processed_bytes=copied,
                remaining_bytes=left,
            )
            found.append(InFlight(one.item.move, progress, one.began))
        return tuple(found)

    @property
    def busy(self) -> bool:
        return bool(self._items)

    @property
    def acts(self) -> bool:
        return True

    def carry_out(self, entries: Entries, recheck: Recheck) -> None:
        plan = max(self._rechecks, default=0) + 1
        self._items |= {id_: Item(id=id_, plan=plan, move=move) for id_, move in entries}
        self._rechecks[plan] = recheck
        self.go_on()

    def withdraw(self, uuids: Set[str], why: str) -> bool:
        ours = withdrawable(self._items.values(), uuids)
        if not ours:
            return False
        for one in ours:
            self._skip(one.id, why)
        self.go_on()
        return True

    def go_on(self) -> None:
        """Begin what may begin now."""
        while True:
            cannot = hopeless(self._items.values())
            for id_, missing in cannot.items():
                self._skip(id_, counts_on(missing))
            begun = ready(self._items.values(), self.limits)
            for id_ in begun:
                self._begin(id_)
            if not (cannot or begun):
                return

    def next_end_seconds(self) -> float:
        """How long it takes until the next migration ends, as they go now; infinity without one."""
        return min((self._left(id_) for id_ in self._under_way), default=math.inf)

    def settle(self) -> None:
        """End the migrations whose end has come, and begin what waits for that."""
        for id_ in [id_ for id_ in self._under_way if self._left(id_) <= _SOON_SECONDS]:
            self._end(id_)
        self.go_on()

    def _left(self, id_: int) -> float:
        one, copying = self._under_way[id_], self.world.copying[id_]
        if not self.world.runs(copying.domain) or not self._both_up(id_):
            return 0.0
        fails = one.fails[0] if one.fails else self.timeout_seconds
        return max(min(self.world.left_seconds(copying), fails - copying.seconds), 0.0)

    def _both_up(self, id_: int) -> bool:
        copying = self.world.copying[id_]
        return bool(self.world.demand.up[copying.source] and self.world.demand.up[copying.destination])

    def _begin(self, id_: int) -> None:
        item = self._items[id_] = replace(self._items[id_], stage=Stage.BEGUN)
        began = self.store.begin(id_)
        if why := self._rechecks[item.plan](item.move) or self._obstacle(item.move):
            self._skip(id_, why)
            return
        domain, destination = self._numbers(item.move)
        self._under_way[id_] = _Migration(item, began)
        self.world.start(id_, domain, destination, self.bandwidth(self.clock.now()))
        whole = self.world.left_seconds(self.world.copying[id_])
        if any(
            fnmatchcase(item.move.domain, one.domain) and fnmatchcase(item.move.destination, one.destination)
            for one in self.world.demand.failing
        ):
            half = min(whole, self.timeout_seconds) / 2
            self._under_way[id_].fails = (half, "the scenario has it fail", Cause.ERROR)

    def _numbers(self, move: Move) -> tuple[int, int]:
        return self.world.fleet.uuids.index(move.uuid), names(self.world.fleet)[move.destination]

    def _obstacle(self, move: Move) -> str | None:
        """What the hosts themselves have against the move."""
        domain, destination = self._numbers(move)
        if not self.world.runs(domain) or self.world.fleet.host_names[self.world.at[domain]] != move.source:
            return f"{move.domain} no longer runs on {move.source}"
        if not self.world.demand.up[destination]:
            return f"{move.destination} does not answer"
        return None

    def _end(self, id_: int) -> None:
        one, copying = self._under_way.pop(id_), self.world.copying[id_]
        why, cause = None, None
        if not self.world.runs(copying.domain):
            why, cause = f"{one.item.move.domain} has stopped", Cause.ERROR
        elif not self._both_up(id_):
            why, cause = "one of its hosts has failed", Cause.ERROR
        elif one.fails and copying.seconds >= one.fails[0] - _SOON_SECONDS:
            _, why, cause = one.fails
        elif copying.seconds >= self.timeout_seconds - _SOON_SECONDS:
            why, cause = f"aborted: longer than {self.timeout_seconds:g} s", Cause.SLOW
        outcome = MigrationOutcome(
            result=Result.FAILED if why else Result.DONE,
            why=why or "",
            cause=cause,
            seconds=copying.seconds,
            downtime_seconds=None if why else _DOWNTIME_SECONDS,
            transferred_bytes=int(copying.copied_bytes),
            dirty_bytes_per_second=float(self.world.fleet.dirty_bytes_per_second[copying.domain]) or None,
        )
        self.on_end(one.item.move, outcome)
        self.world.finish(id_, done=why is None, limit=self.bandwidth(self.clock.now()))
        self.store.end(id_, outcome)
        self._ended(id_, Stage.UNDONE if why else Stage.DONE)

    def _skip(self, id_: int, why: str) -> None:
        outcome = MigrationOutcome(result=Result.SKIPPED, why=why)
        self.on_end(self._items[id_].move, outcome)
        self.store.end(id_, outcome)
        self._ended(id_, Stage.UNDONE)

    def _ended(self, id_: int, stage: Stage) -> None:
        self._items[id_] = replace(self._items[id_], stage=stage)
        going = {one.plan for one in self._items.values() if one.stage in (Stage.WAITING, Stage.BEGUN)}
        self._items = {id_: one for id_, one in self._items.items() if one.plan in going}
        self._rechecks = {plan: recheck for plan, recheck in self._rechecks.items() if plan in going}
