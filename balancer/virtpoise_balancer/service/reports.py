"""Log lines of what happens beside the cycles: migrations that ended, orders, and what others do."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from virtpoise_balancer.analyse.others import OthersChange
from virtpoise_balancer.knowledge.records import Action
from virtpoise_balancer.model import MigrationOutcome, Move, Result

log = structlog.get_logger()

_MOST_LINES = 20


def migration_ended(move: Move, outcome: MigrationOutcome) -> None:
    """Log how a migration ended, with its figures."""
    figures = {
        "domain": move.domain,
        "source": move.source,
        "destination": move.destination,
        "seconds": None if outcome.seconds is None else round(outcome.seconds, 2),
        "downtime_seconds": outcome.downtime_seconds,
    }
    if outcome.result is Result.DONE:
        log.info("a domain was migrated", **figures)
    else:
        log.warning(f"a migration was {outcome.result.value}", why=outcome.why, **figures)


def others_changed(changes: Sequence[OthersChange]) -> None:
    """Log what others did; of many starts and stops only the number."""
    for one in changes[:_MOST_LINES]:
        log.info(
            f"changed by others: a domain was {one.kind.value}",
            domain=one.domain,
            source=one.source,
            destination=one.destination,
        )
    if len(changes) > _MOST_LINES:
        log.info("changed by others: there were further changes", changes=len(changes) - _MOST_LINES)


def ordered(action: Action) -> None:
    """Log an order with who gave it and the answer."""
    level = log.info if action.accepted else log.warning
    level(
        "an order was followed" if action.accepted else "an order was refused",
        who=action.who,
        origin=action.origin,
        action=action.action,
        target=action.target,
        answer=action.answer,
    )
