"""One scrape answers all who wait for it: the work that clients can ask for is bounded, however many they are."""

import asyncio
import gzip
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

_MOST_AT_ONCE = 4


@dataclass(slots=True)
class _Waiting:
    """A scrape that has not started. All who ask for one until then get its result, which is fresh for each of them."""

    until: float  # the earliest deadline of those who ask, in monotonic seconds
    result: "asyncio.Future[tuple[bytes, bytes]]"  # the exposition; and compressed, if anybody asks for that
    compressed: bool = False


class SharedScrapes:
    """Runs at most four scrapes at a time. Clients that ask while these run share the next one.

    Only clients whose deadlines are alike share a scrape (within a factor of two): an impatient one cuts no other
    client's scrape short.
    """

    def __init__(self, scrape: Callable[[float], bytes]) -> None:
        """Share scrapes. ``scrape`` returns an exposition within the number of seconds that it is called with."""
        self._scrape = scrape
        self._threads = ThreadPoolExecutor(_MOST_AT_ONCE, thread_name_prefix="scrape")
        self._waiting: dict[int, _Waiting] = {}
        self._running: set[asyncio.Task[None]] = set()

    async def body(self, until: float, *, compressed: bool) -> bytes:
        """The exposition of a scrape that starts after this call. Raises TimeoutError if there is no time for one."""
        seconds = until - time.monotonic()
        if seconds <= 0:
            raise TimeoutError
        kind = math.frexp(seconds)[1]
        if kind not in self._waiting:
            self._waiting[kind] = _Waiting(until, asyncio.get_running_loop().create_future())
        waiting = self._waiting[kind]
        waiting.until = min(waiting.until, until)
        waiting.compressed = waiting.compressed or compressed
        self._start_next()
        plain, packed = await asyncio.shield(waiting.result)
        return packed if compressed else plain

    def _start_next(self) -> None:
        while self._waiting and len(self._running) < _MOST_AT_ONCE:
            waiting = self._waiting.pop(next(iter(self._waiting)))
            task = asyncio.get_running_loop().create_task(self._run(waiting))
            self._running.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._start_next()

    async def _run(self, waiting: _Waiting) -> None:
        try:
            bodies = await asyncio.get_running_loop().run_in_executor(self._threads, self._work, waiting)
        except Exception as error:
            waiting.result.set_exception(error)
            waiting.result.exception()  # marks it as seen: all who asked may have gone
        else:
            waiting.result.set_result(bodies)

    def _work(self, waiting: _Waiting) -> tuple[bytes, bytes]:
        seconds = waiting.until - time.monotonic()
        if seconds <= 0:  # it waited too long for one of the few threads
            raise TimeoutError
        plain = self._scrape(seconds)
        return plain, gzip.compress(plain, compresslevel=1, mtime=0) if waiting.compressed else b""
