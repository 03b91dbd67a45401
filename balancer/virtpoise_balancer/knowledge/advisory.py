"""The lock of a store in PostgreSQL: an advisory lock of a session.

The server frees it when the session ends or falls silent.
"""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from virtpoise_balancer.errors import StoreError
from virtpoise_balancer.knowledge.database import SILENT_SECONDS, make_engine, reason
from virtpoise_balancer.knowledge.patience import Patience

_KEY = 0x76697274  # "virt"
_LEAST_SILENCE_SECONDS = 2.0
_HELD = text(
    "SELECT count(*) FROM pg_locks"
    " WHERE locktype = 'advisory' AND pid = pg_backend_pid() AND classid = 0 AND objid = :key AND granted"
)
_ANSWER_SOON = text(
    f"SELECT set_config('statement_timeout', '{SILENT_SECONDS}s', false),"
    f" set_config('lock_timeout', '{SILENT_SECONDS}s', false)"
)
# Servers before 14 do not have the setting; there TCP's own time-outs end a session whose machine is gone.
_END_WHEN_SILENT = text(
    "SELECT set_config(name, :milliseconds, false) FROM pg_settings WHERE name = 'idle_session_timeout'"
)


class AdvisoryLock:
    """A lock that PostgreSQL keeps for as long as the holder's session lasts. ``interval_seconds``: of the cycles.

    The lock is free one and a half intervals after its holder's last sign of life.

    With the next cycle of whoever waits for it, that makes less than three intervals. No question waits longer than
    ``SILENT_SECONDS`` for an answer, whatever the server or the way to it does.
    """

    def __init__(self, url: str, password_file: Path | None, interval_seconds: float) -> None:
        self._engine = make_engine(
            url, password_file, Patience(SILENT_SECONDS), poolclass=NullPool, isolation_level="AUTOCOMMIT"
        )
        self._silence = max(1.5 * interval_seconds, _LEAST_SILENCE_SECONDS)
        self._session: Connection | None = None
        self._held = False
        self._asking = threading.Lock()
        address = self._engine.url
        self.place = f"the lock of the database {address.database}{f' on {address.host}' if address.host else ''}"

    def take(self) -> bool:
        with self._asking:
            if self._held:
                return True
            while True:
                is_new = self._session is None
                try:
                    self._held = self._try()
                except SQLAlchemyError as error:
                    self._end_session()
                    if is_new:
                        raise StoreError(f"state.url: {reason(error)}") from None
                    # The server ends the session of who was silent for too long, such as one that only waits.
                else:
                    return self._held

    def _try(self) -> bool:
        """Whether the lock could be taken, in a session that is made if there is none."""
        if self._session is None:
            self._session = self._engine.connect()
            self._session.execute(_ANSWER_SOON)
            self._session.execute(_END_WHEN_SILENT, {"milliseconds": str(round(self._silence * 1000))})
        return bool(self._session.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": _KEY}))

    def lost(self) -> str | None:
        with self._asking:
            if self._session is None or not self._held:
                return "it does not hold the lock of the database"
            try:
                if self._session.scalar(_HELD, {"key": _KEY}):
                    return None
                why = "the database has given its lock away"
            except SQLAlchemyError as error:
                why = f"its session with the database has ended: {reason(error)}"
            self._end_session()
            return why

    def release(self) -> None:
        with self._asking:
            if self._session is not None and self._held:
                with contextlib.suppress(SQLAlchemyError):  # the server sees the end of a session a little later
                    self._session.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": _KEY})
            self._end_session()

    def _end_session(self) -> None:
        self._held = False
        if self._session is not None:
            self._session.invalidate()
            self._session.close()
        self._session = None
