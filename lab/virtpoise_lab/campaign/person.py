"""The person of a run: gives orders one after the other, and goes by the alerts and their runbooks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from virtpoise_balancer.control.orders import Orders
from virtpoise_balancer.execute.facts import Presence
from virtpoise_lab.campaign.balancer import PERSON
from virtpoise_lab.campaign.beside import BESIDE
from virtpoise_lab.campaign.kernel import Task
from virtpoise_lab.campaign.oracle import Oracle
from virtpoise_lab.campaign.stage import Stage
from virtpoise_lab.campaign.world import ACTIVE

_AGAIN_SECONDS = 15.0


@dataclass(frozen=True, eq=False)
class _Order:
    """An order of the person. ``until_followed``: it is given again and again."""

    give: Callable[[Orders], str]
    until_followed: bool


@dataclass(eq=False)
class Person:
    """A person who gives orders. ``no_drain_before``: until then no drain is ordered, since one was taken back."""

    run: Stage
    oracle: Oracle
    no_drain_before: float = 0.0
    _orders: list[_Order] = field(default_factory=list)  # that have no answer yet, the oldest first
    _asking: Task | None = None  # the thread of the balancer that follows the oldest

    def order_drain(self, host: str) -> None:
        """Order it until it is in the store."""
        if self.oracle.drain_ordered_at() is not None:
            return
        self.run.kernel.after(_AGAIN_SECONDS, lambda: self.order_drain(host))
        if self.run.kernel.at >= self.no_drain_before:
            self.order(lambda orders: orders.drain(host, PERSON))

    def order(self, give: Callable[[Orders], str], *, until_followed: bool = False) -> None:
        """Give an order to the balancer that acts, once the one before has its answer."""
        self._orders.append(_Order(give, until_followed))
        if len(self._orders) == 1:
            self._ask()

    def _ask(self) -> None:
        run, order = self.run, self._orders[0]
        leader = run.leader
        if leader is None:
            self._answered(followed=False)
            return

        def ask() -> None:
            try:
                run.note(f"a person orders: {order.give(leader.first.orders)}")
                self.oracle.ordered()
            except Exception as error:
                run.note(f"a person orders, and is refused: {error}")
                self._answered(followed=False)
            else:
                self._answered(followed=True)

        self._asking = task = leader.order("order", ask)
        run.kernel.after(_AGAIN_SECONDS, lambda: self._wait(task))

    def _wait(self, task: Task) -> None:
        """Wait on for an answer. None comes from a balancer that was killed."""
        if task is not self._asking:
            return
        if task.over:
            self._answered(followed=False)
            return
        if any(one.until_followed for one in self._orders):
            self.run.faulty_until(self.run.kernel.at + _AGAIN_SECONDS)
        self.run.kernel.after(_AGAIN_SECONDS, lambda: self._wait(task))

    def _answered(self, *, followed: bool) -> None:
        self._asking = None
        if self._orders[0].until_followed and not followed:
            self.run.faulty_until(self.run.kernel.at + _AGAIN_SECONDS)
            self.run.kernel.after(_AGAIN_SECONDS, self._ask)
            return
        del self._orders[0]
        if self._orders:
            self._ask()

    # --- after the faults ---------------------------------------------------------------------------------------------

    def mend(self) -> bool:
        """What a person does who goes by the alerts; and an administrator who starts what is down.

        Whether there was anything to do.
        """
        run, leader = self.run, self.run.leader
        self.release()
        if run.setting.copies:
            run.world.tidy_disks({one.uuid for one in self.oracle.entries() if one.result is None})
        flagged = {one.uuid for one in leader.unaccounted} if leader else set()
        for uuid in sorted(flagged):
            self._account_for(uuid)
        for uuid, guest in run.world.guests.items():
            down = not any(state in ACTIVE for state in run.world.places(uuid).values())
            if down and (guest.wanted_down or guest.crashed or uuid in flagged):
                run.note(f"a person starts {guest.name}")
                run.world.start_again(uuid)
                flagged.add(uuid)
        return bool(flagged)

    def release(self) -> None:
        """Release each brake that is on, but for that of a group that is to stand still."""
        leader = self.run.leader
        for part in leader.parts if leader else ():
            brake = part.published.brake
            if brake and not (self.run.setting.still and part.config.group == BESIDE):
                self.run.note(f"a person releases the brake: {brake.why}")
                part.orders.release(PERSON)
                self.oracle.released(brake)

    def _account_for(self, uuid: str) -> None:
        """Leave one copy of the domain: where it runs on, else where it is paused half way."""
        world, places = self.run.world, self.run.world.places(uuid)
        rank = {Presence.RUNNING: 0, Presence.PAUSED: 1, Presence.MIGRATING: 2}
        copies = sorted((host for host in places if places[host] in rank), key=lambda host: (rank[places[host]], host))
        self.run.note(f"a person accounts for {world.guests[uuid].name}: {places}")
        if any(True for _ in world.running_jobs(uuid)):
            return
        for host in copies[1:]:
            world.put(uuid, host, Presence.ABSENT)
        if copies and places[copies[0]] is Presence.MIGRATING:
            world.put(uuid, copies[0], Presence.RUNNING)
        if copies:
            world.guests[uuid].lost = False
            for host in sorted(set(places) - {copies[0]}):
                world.put(uuid, host, Presence.ABSENT) if uuid in world.machines[host].copies else None
