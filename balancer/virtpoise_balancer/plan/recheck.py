"""Whether a planned move still makes sense, on a fresh look at the group (law 5)."""

from __future__ import annotations

from virtpoise_balancer.model import DomainState, Move, Snapshot
from virtpoise_balancer.plan.problems import no_destination


def obstacle(move: Move, snapshot: Snapshot) -> str | None:
    """Why the move must not be made now, or None."""
    source, destination = snapshot.host(move.source), snapshot.host(move.destination)
    if source is None:
        return f"{move.source} has left the group"
    if unknown := source.why_unknown:
        return f"{move.source} is unknown: {unknown.text}"
    if destination is None:
        return f"{move.destination} has left the group"
    if unknown := destination.why_unknown:
        return f"{move.destination} is unknown: {unknown.text}"
    if refusal := no_destination(destination):
        return f"{move.destination} takes no domains: {refusal.reason}"
    domain = next((domain for domain in snapshot.domains if domain.uuid == move.uuid), None)
    if domain is None or domain.host != move.source or domain.state is not DomainState.RUNNING:
        return f"{move.domain} is no longer seen running on {move.source}"
    return None
