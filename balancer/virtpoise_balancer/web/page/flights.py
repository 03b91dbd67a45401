"""The running migrations, which every page shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from virtpoise_balancer.explain import wording
from virtpoise_balancer.model import Progress
from virtpoise_balancer.web.page.parts import Anchor, domain_link, host_link
from virtpoise_balancer.web.state import Flight


@dataclass(frozen=True, slots=True, kw_only=True)
class FlightCard:
    """A running migration. ``ratio``: the share of memory that is copied; None while that is not known."""

    domain: Anchor
    source: Anchor
    destination: Anchor
    ratio: float | None
    text: str


def flight_cards(found: Sequence[Flight]) -> tuple[FlightCard, ...]:
    """The running migrations as the page shows them."""
    return tuple(
        FlightCard(
            domain=domain_link(flight.domain, flight.uuid),
            source=host_link(flight.source),
            destination=host_link(flight.destination),
            ratio=flight.progress.copied_ratio if flight.progress else None,
            text=_progress(flight.progress),
        )
        for flight in found
    )


def _progress(progress: Progress | None) -> str:
    if progress is None:
        return "starting"
    done = "starting" if progress.total_bytes == 0 else f"share copied {wording.UNKNOWN}"
    if (ratio := progress.copied_ratio) is not None:
        done = wording.percent(ratio)
    elapsed, dirtied = wording.duration(progress.elapsed_seconds), wording.dirtied(progress.dirty_bytes_per_second)
    disks = wording.with_disks(progress.disk_bytes)
    return f"{done}{disks}, {elapsed}{dirtied}{wording.throttled(progress.throttle_ratio)}"
