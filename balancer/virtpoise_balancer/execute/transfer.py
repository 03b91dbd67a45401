"""How domains are migrated, as plain values. It imports nothing else, since each worker process loads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Throttle:
    """How much QEMU slows a guest down that writes to its memory faster than it is copied.

    In percent of its CPU time: at first, and by how much more each time that it does not help.
    """

    initial_percent: int
    increment_percent: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """How a domain's memory crosses the network. None leaves it to QEMU, or switches it off where there is no number.

    ``encrypted``: by TLS. ``connections``: how many TCP connections carry it at once. ``zstd_level`` and
    ``xbzrle_cache_bytes``: only with that compression. ``max_downtime_seconds``: for how long the guest may be stopped
    for the last part.
    """

    encrypted: bool = False
    connections: int = 1
    compression: Literal["xbzrle", "zstd"] | None = None
    zstd_level: int | None = None
    xbzrle_cache_bytes: int | None = None
    throttle: Throttle | None = None
    max_downtime_seconds: float | None = None
