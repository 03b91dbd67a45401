"""The running migrations, which every page shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from virtpoise_balancer.explain import wording
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
    return tuple(
        FlightCard(
            domain=domain_link(flight.domain, flight.uuid),
            source=host_link(flight.source),
            destination=host_link(flight.destination),
            ratio=(ratio := _copied(flight)),
            text=_progress(flight, ratio),
        )
        for flight in found
    )


def _copied(flight: Flight) -> float | None:
    if flight.progress is None or not flight.progress.total_bytes:
        return None
    return max(1 - flight.progress.remaining_bytes / flight.progress.total_bytes, 0.0)


def _progress(flight: Flight, ratio: float | None) -> str:
    done = "starting" if ratio is None else wording.percent(ratio)
    if flight.progress is None:
        return done
    elapsed = wording.duration(flight.progress.elapsed_seconds)
    dirtied = wording.dirtied(flight.progress.dirty_bytes_per_second)
    return f"{done}, {elapsed}{dirtied}{wording.throttled(flight.progress.throttle_ratio)}"
