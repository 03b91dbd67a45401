"""The daemon's log: one line for each event, logfmt or JSON, on standard error."""

from __future__ import annotations

import logging
import sys
from typing import Any, Literal

import structlog

from virtpoise_balancer.visible import visible


def set_up(level: str, style: Literal["logfmt", "json"]) -> None:
    """Log to standard error from this level on, in this style."""
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer(ensure_ascii=False)
        if style == "json"
        else structlog.processors.LogfmtRenderer(key_order=["ts", "level", "msg"])
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
            structlog.processors.format_exc_info,
            structlog.processors.EventRenamer("msg"),
            _one_line,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    # Libraries log only when something is wrong. What the scheduler leaves out on purpose we log ourselves.
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine("level=%(levelname)s logger=%(name)s msg=%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("apscheduler").setLevel(logging.CRITICAL)


class _OneLine(logging.Formatter):
    """A library's record, which may quote what a server or a client sent, on one line, with its traceback."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))


def _one_line(_logger: object, _name: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """What cannot be seen is escaped, so that no name forges a line of the log or is obeyed by a terminal."""
    return {key: _visible(value) for key, value in event.items()}


def _visible(value: Any) -> Any:
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, list | tuple | set | frozenset):
        return [_visible(one) for one in value]
    return value if value is None or isinstance(value, bool | int | float) else visible(str(value))
