"""How one migration goes and how it ended."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

# How many characters of why a migration failed are kept and shown.
WHY_LENGTH = 200
# How a prediction of a move came out; all but the first have no measurement.
PredictionVerdict = Literal["measured", "disturbed", "no_data", "not_moved"]


class Result(StrEnum):
    """How a migration ended."""

    DONE = "done"
    SKIPPED = "skipped"
    FAILED = "failed"


class Cause(StrEnum):
    """What a move that was not made teaches."""

    ERROR = "error"  # it broke
    REFUSED = "refused"  # libvirt refused it before anything was copied
    OBSTACLE = "obstacle"  # one of the hosts spoke against it before it began
    SLOW = "slow"  # it did not end in time
    STOPPED = "stopped"  # the balancer had to stop, or the domain was shut off or destroyed: that teaches nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationOutcome:
    """How one move ended. ``why`` is empty when it is done; the figures are known only for a migration that ran.

    ``cause``: of a move that was not made, where it is known.
    ``dirty_bytes_per_second``: how fast the domain last wrote to its memory while it was watched; ``lost``: it runs on
    neither host any more.
    """

    result: Result
    why: str = ""
    cause: Cause | None = None
    seconds: float | None = None
    downtime_seconds: float | None = None
    transferred_bytes: int | None = None
    dirty_bytes_per_second: float | None = None
    lost: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """A migration under way, as libvirt's job statistics give it.

    What libvirt leaves out is None. ``passes``: how often the memory has been gone through, the current pass included.
    ``throttle_ratio``: the share of its CPU time that the guest is kept from, so that it writes less. ``disk_bytes``:
    what of all are disks. ``switched``: the guest runs on the destination already, and fetches the rest of its memory
    (post-copy).
    """

    elapsed_seconds: float
    total_bytes: int | None
    processed_bytes: int | None
    remaining_bytes: int | None
    dirty_bytes_per_second: float | None = None
    passes: int | None = None
    throttle_ratio: float = 0.0
    disk_bytes: int | None = None
    switched: bool = False

    @property
    def copied_ratio(self) -> float | None:
        """The share of the memory that is copied; None while it is not known."""
        if not self.total_bytes or self.remaining_bytes is None:
            return None
        return max(1 - self.remaining_bytes / self.total_bytes, 0.0)
