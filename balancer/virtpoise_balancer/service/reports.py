"""Log lines of what happens beside the cycles: migrations that ended, and orders."""

from __future__ import annotations

import structlog

from virtpoise_balancer.knowledge.records import Action
from virtpoise_balancer.model import MigrationOutcome, Move, Result

log = structlog.get_logger()


def migration_ended(move: Move, outcome: MigrationOutcome) -> None:
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


def ordered(action: Action) -> None:
    level = log.info if action.accepted else log.warning
    level(
        "an order was followed" if action.accepted else "an order was refused",
        who=action.who,
        origin=action.origin,
        action=action.action,
        target=action.target,
        answer=action.answer,
    )
