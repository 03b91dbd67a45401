"""Log lines in the format of Prometheus' exporters, ``ts=... level=... msg="..."`` or the same as JSON, on standard
error.
"""

import json
import logging
import sys
import time
from typing import Literal

LEVELS = ("debug", "info", "warn", "error")
FORMATS = ("logfmt", "json")

# libvirt passes on megabytes, such as what a program says that it has started.
_MOST_MESSAGE = 2000

log = logging.getLogger("virtpoise_exporter")


class _Formatter(logging.Formatter):
    def __init__(self, style: Literal["logfmt", "json"]) -> None:
        super().__init__()
        self._json = style == "json"

    def format(self, record: logging.LogRecord) -> str:
        level = "warn" if record.levelno == logging.WARNING else record.levelname.lower()
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        fields = {"ts": f"{seconds}.{int(record.msecs):03d}Z", "level": level, "msg": shortened(record.getMessage())}
        if record.exc_info:
            fields["error"] = self.formatException(record.exc_info)
        if self._json:
            return _visible(json.dumps(fields, ensure_ascii=False))
        return " ".join(f"{key}={_logfmt(value)}" for key, value in fields.items())


def shortened(message: str) -> str:
    """The message, or its first 2,000 characters with dots behind."""
    return message if len(message) <= _MOST_MESSAGE else f"{message[:_MOST_MESSAGE]}..."


def _logfmt(value: str) -> str:
    plain = value.isprintable() and not any(character in value for character in ' "=\\')
    return value if plain and value else _visible(json.dumps(value, ensure_ascii=False))


def _visible(text: str) -> str:
    """JSON text with all that a terminal would not show as it is (controls, bidi marks, lone surrogates) escaped.

    Names come from whoever may define a domain.
    """
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else json.dumps(letter)[1:-1] for letter in text)


def configure(level: str, style: Literal["logfmt", "json"]) -> None:
    """Sends the exporter's log lines from ``level`` upwards to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(style))
    log.handlers = [handler]
    log.propagate = False
    log.setLevel("WARNING" if level == "warn" else level.upper())
