"""A connection with PostgreSQL that waits for the server within a limit of its own.

A server whose disk is frozen, or that was stopped, still acknowledges what it is sent. So neither its own time-outs nor
TCP's end the wait.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any

import psycopg

from virtpoise_balancer.knowledge.patience import Patience


class PatientConnection(psycopg.Connection[Any]):
    """Gives up, and is closed, when an answer takes longer than its ``patience``."""

    patience: Patience | None = None

    def wait(self, gen: Any, *arguments: Any, **options: Any) -> Any:
        return super().wait(gen if self.patience is None else self._within(gen, self.patience), *arguments, **options)

    def _within(self, answer: Any, patience: Patience) -> Generator[Any, Any, Any]:
        """The steps of psycopg's own waiting, which goes on a few times in a second while nothing has come."""
        began = time.monotonic()
        try:
            wanted = next(answer)
            while True:
                ready = yield wanted
                if not ready and time.monotonic() - began >= patience.seconds:
                    self.pgconn.finish()
                    raise psycopg.OperationalError(f"the server does not answer within {patience.seconds:g} s")
                wanted = answer.send(ready)
        except StopIteration as end:
            return end.value
