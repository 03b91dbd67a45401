"""What people have set, for readers that must not wait for a store that does not answer."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

from virtpoise_balancer.errors import StoreError
from virtpoise_balancer.knowledge.records import Overrides
from virtpoise_balancer.threads import THREADS, Thread

_MOST_WAIT_SECONDS = 1.0


class KnownOverrides:
    """What people have set; as it was read last, while the store cannot be read.

    A call reads it anew. It returns after a second at the latest, and at once while an earlier one still waits for the
    store: metrics ask many times, and a lost server is given up after several seconds only.
    """

    def __init__(self, read: Callable[[], Overrides]) -> None:
        self._read = read
        self._known = Overrides()
        self._asking: Thread | None = None
        self._turn = threading.Lock()

    def __call__(self) -> Overrides:
        with self._turn:
            if self._asking is None or not self._asking.is_alive():
                with contextlib.suppress(RuntimeError):  # no thread is free
                    self._asking = THREADS.start(self._ask, "read the overrides")
                    self._asking.join(_MOST_WAIT_SECONDS)
        return self._known

    def _ask(self) -> None:
        with contextlib.suppress(StoreError):
            self._known = self._read()
