"""Waiting for the end of ordered moves, with a progress bar. Imported only when a command waits."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from virtpoise_balancer.command import client, terminal
from virtpoise_balancer.config import Config
from virtpoise_balancer.model import Move
from virtpoise_balancer.web.context import MOST_RECORDS

_POLL_SECONDS = 0.5

Record = Mapping[str, Any]  # a migration of the history, as the API serves it


def newest_migration(settings: Config) -> int:
    """The id of the newest migration in the history; 0 if there is none."""
    return max((record["id"] for record in client.get(settings, "history?limit=1")), default=0)


def until_ended(settings: Config, moves: Sequence[Move], after: int) -> bool:
    """Wait for the end of these moves, print how each ended, and return whether all were done.

    ``after``: the id of the newest migration before they were ordered.
    """
    wanted = {(move.uuid, move.destination) for move in moves}
    with terminal.progress() as bar:
        while left := _unfinished(records := _records(settings, wanted, after)):
            bar(*_progress(settings, left))
            time.sleep(_POLL_SECONDS)
    ended = [(move, records.get((move.uuid, move.destination))) for move in moves]
    terminal.show_ends(ended)
    return all(record is not None and record["result"] == "done" for _, record in ended)


def _records(settings: Config, wanted: set[tuple[str, str]], after: int) -> dict[tuple[str, str], Record]:
    """The wanted moves' records, by uuid and destination.

    Of several of one move the oldest: a later plan may repeat it.
    """
    return {
        key: record
        for record in client.get(settings, f"history?limit={MOST_RECORDS}")  # newest first
        if record["id"] > after and (key := (record["uuid"], record["destination"])) in wanted
    }


def _unfinished(records: Mapping[tuple[str, str], Record]) -> int:
    return sum(record["result"] is None for record in records.values())


def _progress(settings: Config, left: int) -> tuple[str, int, int]:
    """What the bar shows: a text, the bytes copied, and of how many, as far as they are known."""
    flights = client.get(settings, "status")["in_flight"]
    progress = [flight["progress"] or {} for flight in flights]
    done, total = (sum(one.get(key) or 0 for one in progress) for key in ("processed_bytes", "total_bytes"))
    names = ", ".join(flight["domain"] for flight in flights) or "next move"
    return f"{names} ({left} left)", min(done, total), max(total, 1)
