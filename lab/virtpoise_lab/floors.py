"""What both floors of the campaign share: lengths of faults, the journal's rows and their replay, a type of option."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

# Seconds, on both sides of the time-outs in the code.
DURATIONS = (4.0, 15.0, 27.0, 45.0)
# The columns of ``Entry``, in its order.
JOURNAL = (
    "SELECT m.id, uuid, source, destination, began, result, lost, ended, made, why "
    "FROM migrations m JOIN plans p ON p.id = plan_id ORDER BY m.id"
)


@dataclass(frozen=True)
class Entry:
    """A row of the journal. ``began``, ``ended``, ``planned``: Unix seconds, None for what has not."""

    id: int
    uuid: str
    source: str
    destination: str
    began: float | None
    result: str | None
    lost: bool
    ended: float | None = None
    planned: float | None = None
    why: str = ""

    @property
    def is_open(self) -> bool:
        """Whether it has begun and its end is not known."""
        return self.began is not None and self.result is None


def replayed(name: str, first: str, place: str, entries: Iterable[Entry]) -> Iterator[str]:
    """What is wrong with the journal of a domain: replayed from where it was first, it must end where it is."""
    at = first
    for entry in entries:
        if entry.result == "done":
            if entry.source != at:
                yield f"entry {entry.id}: {name} left {entry.source}, but was on {at}"
            at = entry.destination
    if at != place:
        yield f"by the journal {name} is on {at}; it is on {place}"


def positive(text: str) -> int:
    """An option's number."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, got {text}")
    return number
