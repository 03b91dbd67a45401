"""Work beside the caller as a part that is handed in, so that tests can decide when it runs.

Locks that are held while something is asked, and events that are waited for, come from here as well. A lock around a
few lines of memory is a plain ``threading.Lock``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Protocol


class Thread(Protocol):
    """Work that was started."""

    def is_alive(self) -> bool: ...

    def join(self, timeout: float | None = None) -> None:
        """Wait until it has ended, for ``timeout`` seconds at most."""
        ...


class Lock(Protocol):
    """Held by one thread at a time."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool: ...

    def release(self) -> None: ...

    def __enter__(self) -> bool: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Event(Protocol):
    """Set once."""

    def set(self) -> None: ...

    def is_set(self) -> bool: ...

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set, for ``timeout`` seconds at most. Whether it is."""
        ...


class Threads(Protocol):
    """Starts threads, and makes what they wait for."""

    def start(self, work: Callable[[], object], name: str, *, daemon: bool = True) -> Thread:
        """Do the work beside the caller. The process does not end before work that is no ``daemon``."""
        ...

    def lock(self) -> Lock: ...

    def event(self) -> Event: ...


class SystemThreads:
    """The threads of this process."""

    def start(self, work: Callable[[], object], name: str, *, daemon: bool = True) -> Thread:
        thread = threading.Thread(target=work, name=name, daemon=daemon)
        thread.start()
        return thread

    def lock(self) -> Lock:
        return threading.Lock()

    def event(self) -> Event:
        return threading.Event()


THREADS = SystemThreads()
