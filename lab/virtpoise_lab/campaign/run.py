"""A run of the campaign, as a fault finds it: the stage, the oracle that judges it, and the person who goes by the
alerts.
"""

from __future__ import annotations

from pathlib import Path

from virtpoise_lab.campaign.balancer import Balancer
from virtpoise_lab.campaign.oracle import Oracle
from virtpoise_lab.campaign.person import Person
from virtpoise_lab.campaign.stage import INTERVAL_SECONDS, THRESHOLD_RATIO, Stage


class Run(Stage):
    """A run under way."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.oracle = Oracle(self, THRESHOLD_RATIO, INTERVAL_SECONDS)
        self.person = Person(self, self.oracle)

    def start_balancer(self) -> None:
        name = f"balancer {len(self.balancers) + 1}"
        self.note(f"{name} starts")
        made = Balancer(
            self.kernel,
            self.world,
            self.server,
            self.disk,
            self.config,
            Path(self._folder.name) / "store",
            self.oracle.request,
            self.oracle.act,
            name,
            self.setting.asks_for_facts,
        )
        made.process.ahead_seconds = self.balancers[-1].process.ahead_seconds if self.balancers else 0.0
        made.on_turn.append(self.oracle.turn)
        self.balancers.append(made)
        made.start()

    def kill_balancer(self) -> None:
        """Kill the one that leads, or the newest."""
        alive = [one for one in self.balancers if one.process.alive]
        for one in [one for one in alive if one.leads][:1] or alive[-1:]:
            self.note(f"{one.name} is killed")
            one.kill()
