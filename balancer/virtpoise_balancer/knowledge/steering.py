"""What people have ordered: settings that outlive a restart, and the journal of all orders."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Mode = Literal["recommend", "automatic"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A value that ``who`` set ``at`` (Unix seconds), when the configuration said ``instead_of``."""

    value: str
    instead_of: str
    at: float
    who: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Steering:
    """Paused, the balancer looks and plans but begins no migration; ``mode`` is None where nobody has set one."""

    paused: Setting | None = None
    mode: Setting | None = None

    def mode_over(self, configured: Mode) -> Mode:
        """The mode that holds: the newer of what a person set and what the configuration says."""
        if self.mode is None or self.mode.instead_of != configured:
            return configured
        return "automatic" if self.mode.value == "automatic" else "recommend"


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """An order, followed or refused. ``origin``: "command", or the address it came from; ``answer``: what was said to it."""

    at: float
    who: str
    origin: str
    action: str
    target: str = ""
    accepted: bool
    answer: str
