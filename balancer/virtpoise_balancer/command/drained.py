"""Waits until a drained host is empty as its own libvirt reports, and shows what it waits for.

The running balancer asks that libvirt, since whoever types the command may have no way to it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from virtpoise_balancer.command import client, terminal
from virtpoise_balancer.config import Config
from virtpoise_balancer.errors import Refused, VirtpoiseError
from virtpoise_balancer.explain import wording
from virtpoise_balancer.model import Plan

_MOST_NAMED = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainProgress:
    """How far a drain is. ``left``: domains that the host's libvirt still has, None while it has not said.

    ``waits``: what stands in the way, or what goes on; empty when the host is ``empty``.
    """

    left: int | None
    waits: str = ""
    empty: bool = False


def wait_until_empty(settings: Config, host: str, since: float) -> None:
    """Return once libvirt itself lists no domain there in any state but shut off. Refused when the drain was taken
    back.

    ``since``: when the drain was ordered, in Unix seconds; what was seen before does not count.
    """
    most, said = 0, ""
    with terminal.progress() as bar:
        while True:
            progress = look(lambda path: client.get(settings, path), host, since)
            if progress.empty:
                break
            most = max(most, progress.left or 0)
            left = "" if progress.left is None else f"{progress.left} of {most} domains left"
            text = ": ".join(part for part in (left, progress.waits) if part)
            bar(f"{host}: {text}", most - (most if progress.left is None else progress.left), most or 1)
            if progress.waits not in ("", said):
                terminal.note(f"{host}: {progress.waits}")
                said = progress.waits
            time.sleep(settings.interval_seconds)


def look(ask: Callable[[str], Any], host: str, since: float) -> DrainProgress:
    """How far the drain is, as the running balancer knows it. ``ask``: what it answers to a path of its API."""
    try:
        status = ask("status")
        if status["cycle_at"] is None or status["cycle_at"] <= since:
            return DrainProgress(left=None, waits="waits for the balancer's next cycle")
        found = ask(f"hosts/{quote(host, safe='')}")["status"]
        plan = client.plan_in(ask("plan"))
    except VirtpoiseError as error:
        return DrainProgress(left=None, waits=f"waits: {error}")
    if not found["draining"]:
        raise Refused(f"{host} is not draining any more")
    if found["asked_at"] is None or found["asked_at"] <= since:
        return DrainProgress(left=None, waits="waits for the answer of its libvirt")
    left = found["active_domains"]
    if left is None:
        return DrainProgress(
            left=None, waits=f"waits: {found['why_unknown'] or 'its libvirt does not answer the balancer'}"
        )
    flights = [one["domain"] for one in status["in_flight"] if host in (one["source"], one["destination"])]
    if left == 0 and not flights:
        return DrainProgress(left=0, empty=True)
    return DrainProgress(left=left, waits=_waits(status, found, plan, flights))


def _waits(status: Mapping[str, Any], host: Mapping[str, Any], plan: Plan | None, flights: Sequence[str]) -> str:
    """What a drain that is not done waits for."""
    if flights:
        return f"{_names(flights)} migrating"
    if host["why_unknown"]:
        return f"waits: nothing is moved off it while it is unknown: {host['why_unknown']}"
    if status["paused"]:
        return f"waits: paused by {status['paused']['who']}; `virtpoise resume` takes it back"
    if status["brake"]:
        return f"waits for a person, since the brake is on: {status['brake']['why']}; `virtpoise release` ends it"
    if status["blackout"]:
        return f"waits: no migration begins {status['blackout']['text']}; `virtpoise apply` goes ahead"
    leaving = {move.uuid: move.domain for move in plan.moves if move.source == host["name"]} if plan else {}
    moves = list(leaving.values())
    if moves and status["mode"] != "automatic":
        return (
            f"waits for a person, since moves are only recommended ({_names(moves)}): "
            "`virtpoise apply` makes them, `virtpoise mode automatic` makes all from now on"
        )
    stays = {
        one.uuid or one.domain: f"{one.domain} stays: {wording.refusal(one)}"
        for one in (plan.refusals if plan else ())
        if one.domain in host["domains"] and one.uuid not in leaving and one.host in (None, host["name"])
    }
    if stays and not moves:
        named = list(stays.values())[:_MOST_NAMED]
        more = f"; and {len(stays) - _MOST_NAMED} more" if len(stays) > _MOST_NAMED else ""
        return f"cannot finish now: {'; '.join(named)}{more}"
    return "" if moves else str(status["sentence"])


def _names(domains: Sequence[str]) -> str:
    more = f" and {len(domains) - _MOST_NAMED} more" if len(domains) > _MOST_NAMED else ""
    return ", ".join(domains[:_MOST_NAMED]) + more
