"""A run on the warm lab, as a fault finds it: the balancers, the store, the clock and the facts for the oracle."""

from __future__ import annotations

import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from virtpoise_lab import state
from virtpoise_lab.balancer import Balancer
from virtpoise_lab.chaos.clock import Clock
from virtpoise_lab.chaos.oracle import Facts, Held
from virtpoise_lab.chaos.plan import HOMES, ROOM, Need, Plan, Task
from virtpoise_lab.chaos.store import Store, StoreFile, StoreServer
from virtpoise_lab.chaos.truth import Watch
from virtpoise_lab.chaos.warm import Warm
from virtpoise_lab.errors import LabError


@dataclass
class Run:
    """A run under way. ``touched``: domains that a person has moved or ended, as the fault."""

    warm: Warm
    plan: Plan
    touched: set[str] = field(default_factory=set)
    watch: Watch = field(init=False)
    store: Store = field(init=False)
    clock: Clock = field(init=False)

    def __post_init__(self) -> None:
        self._began = time.time()
        self._trace: list[str] = []
        self.uuids = {name: self.warm.specs[name].uuid for name in HOMES}
        self.clock = Clock(state.FOLDER / "clock")
        if self.plan.needs(Need.POSTGRESQL):
            self.store = StoreServer(self.warm.server)
        else:
            self.store = StoreFile(self.warm.disk / "virtpoise.db")
        environment = self.clock.environment if self.plan.needs(Need.CLOCK) else {}
        self._balancers = [Balancer(self.warm.lab, environment=environment)]
        self._over = threading.Event()
        self._keeping = threading.Lock()
        self.facts = Facts(
            plan=self.plan,
            homes=HOMES,
            uuids=self.uuids,
            room=ROOM[self.plan.task],
            touched=self.touched,
            drained="h1" if self.plan.task is Task.DRAIN else None,
        )

    def note(self, text: str) -> None:
        self._trace.append(f"{time.time() - self._began:7.2f}  {text}")

    # --- what faults use ----------------------------------------------------------------------------------------------

    @property
    def balancer(self) -> Balancer:
        return self._balancers[0]

    def kill_balancer(self) -> None:
        """End it without warning; systemd is left out."""
        with self._keeping:
            self.balancer.kill()

    def end_balancer(self) -> None:
        """Tell it to stop, and wait until it has; systemd is left out."""
        with self._keeping:
            self._note_held()
            self._told_to_stop(self.balancer)

    def add_balancer(self) -> None:
        """Start a second one on the same store."""
        first = self.balancer.config.read_text(encoding="utf-8")
        second = Balancer(self.warm.lab, state.FOLDER / "balancer-2", "127.0.0.1:19808", "balancer-2")
        second.config.write_text(
            first.replace(self.balancer.address, second.address).replace("balancer.sock", "second.sock"), "utf-8"
        )
        second.launch()
        self._balancers.append(second)
        self.warm.stack.scrape_balancers(*(one.address for one in self._balancers))

    def active_on(self, domain: str) -> list[str]:
        """The hosts with a QEMU of the domain that could run on, as QEMU reports it."""
        states = self.watch.now.items()
        return [host for (name, host), now in states if name == domain and now in ("running", "paused")]

    def _told_to_stop(self, one: Balancer) -> None:
        one.wait_for("answer", lambda _status: True)  # one that is being started knows no signal yet
        try:
            self.facts.exits.append(one.stop())
        except subprocess.TimeoutExpired:
            self.facts.died.append(f"{one.name} does not stop")
            one.kill()

    def _note_held(self) -> None:
        """Keep the most that the balancer has had at once. One that has ended has nothing."""
        before = self.facts.held or Held(0, 0, 0)
        with suppress(LabError, OSError):
            own = Path("/proc", str(self.balancer.process.pid))
            tasks, descriptors = list((own / "task").iterdir()), list((own / "fd").iterdir())
            asking = sum(len((task / "children").read_text().split()) for task in tasks)
            self.facts.held = Held(
                max(before.threads, len(tasks)),
                max(before.descriptors, len(descriptors)),
                max(before.asking, asking),
            )
