"""Signals to the daemon: SIGTERM and SIGINT end it, SIGHUP has it read its configuration again."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


@contextlib.contextmanager
def handled(stop: threading.Event, reload: threading.Event) -> Iterator[None]:
    """Signals set these events; the handlers from before are restored at the end. Only in the main thread."""

    events: dict[int, threading.Event] = {signal.SIGTERM: stop, signal.SIGINT: stop, signal.SIGHUP: reload}

    def handle(number: int, _frame: FrameType | None) -> None:
        events[number].set()

    before = {number: signal.signal(number, handle) for number in events}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
