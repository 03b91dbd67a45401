"""Whether a migration can end: before it begins, by how fast the guest writes; under way, by what remains.

QEMU copies the memory in passes. Each pass copies what the guest has written to during the pass before, and the last
one is made when that takes no longer than the guest may be stopped. A guest that writes faster than is copied leaves as
much to each pass as to the one before. With auto-converge QEMU then takes CPU time from the guest, more each time, up
to 99 % (QEMU's max-cpu-throttle), which is the strongest means there is.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum

from virtpoise_balancer.model import Progress

# QEMU throttles no further.
_MOST_THROTTLED = 0.99
# What is judged: at least as many passes and seconds.
_PASSES = 6
_SECONDS = 10.0
# What remains must shrink to less than this share from the first half of these passes to the second.
_NOT_SHRUNK = 0.95
_MIB = 1 << 20


class Feasibility(StrEnum):
    """Whether a migration can end while its guest writes to its memory."""

    FEASIBLE = "feasible"
    THROTTLED = "feasible with auto-converge"
    NOT = "not feasible"


def feasibility(dirty_bytes_per_second: float, bytes_per_second: float, *, throttles: bool) -> Feasibility:
    """Whether a guest that writes this fast can be copied at this speed. ``throttles``: QEMU may throttle it."""
    if dirty_bytes_per_second < bytes_per_second:
        return Feasibility.FEASIBLE
    least = dirty_bytes_per_second * (1 - _MOST_THROTTLED)
    return Feasibility.THROTTLED if throttles and least < bytes_per_second else Feasibility.NOT


@dataclass(frozen=True, slots=True)
class _Progress:
    """What is judged of a progress: the pass, seconds and bytes."""

    number: int
    seconds: float
    copied: int
    remaining: int


@dataclass(frozen=True, slots=True)
class _Pass:
    """The beginning of a pass: the first look at it, and how much it had to copy, at least and at most."""

    seen: _Progress
    least: int
    most: int


@dataclass(slots=True)
class Convergence:
    """Takes the progress of one migration, look after look. ``throttles``: QEMU may throttle the guest."""

    throttles: bool
    _last: _Progress | None = None
    _passes: deque[_Pass] = field(default_factory=deque)

    def hopeless(self, progress: Progress) -> str | None:
        """Why the migration does not end, in words; None while it may."""
        last, now = self._last, _judged(progress)
        self._last = now
        if last is None or now is None or now.number <= max(last.number, 1):
            return None
        if self.throttles and progress.throttle_ratio < _MOST_THROTTLED:
            self._passes.clear()
            return None
        self._passes.append(_begun(last, now))
        while len(self._passes) > 1 and _long_enough(self._passes[1].seen, now):
            self._passes.popleft()
        if not _long_enough(self._passes[0].seen, now):
            return None
        passes, half = list(self._passes), len(self._passes) // 2
        before = max((one.most for one in passes[:half]), default=0)
        after = max(one.least for one in passes[half:])
        return None if after < before * _NOT_SHRUNK else _in_words(passes[0].seen, now, progress, after)


def _judged(progress: Progress) -> _Progress | None:
    """What of a progress is judged; None where libvirt leaves out a figure that is needed."""
    number, copied, remaining = progress.passes, progress.processed_bytes, progress.remaining_bytes
    if number is None or copied is None or remaining is None:
        return None
    return _Progress(number, progress.elapsed_seconds, copied, remaining)


def _begun(last: _Progress, now: _Progress) -> _Pass:
    """The pass that ``now`` is the first look at. What was copied since the last look ended the pass before it, and
    began this one.
    """
    copied = max(now.copied - last.copied, 0)
    if now.number == last.number + 1:
        size = now.remaining + max(copied - last.remaining, 0)
        return _Pass(now, size, size)
    return _Pass(now, now.remaining, now.remaining + copied)


def _long_enough(first: _Progress, last: _Progress) -> bool:
    return last.number - first.number >= _PASSES and last.seconds - first.seconds >= _SECONDS


def _in_words(first: _Progress, last: _Progress, progress: Progress, remaining: int) -> str:
    copied = (last.copied - first.copied) / (last.seconds - first.seconds) / _MIB
    dirtied = progress.dirty_bytes_per_second
    written = "" if dirtied is None else f"{dirtied / _MIB:.1f} MiB/s written, "
    throttled = f", its CPUs throttled by {progress.throttle_ratio:.0%}" if progress.throttle_ratio else ""
    return (
        f"it does not converge: each of the last {last.number - first.number} passes left up to {remaining / _MIB:.1f} MiB "
        f"({written}{copied:.1f} MiB/s copied{throttled})"
    )
