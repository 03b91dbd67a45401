"""One scrape: each collector runs in a thread of its own, and one that is late is left out."""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Protocol, runtime_checkable

from virtpoise_exporter import __version__, metrics
from virtpoise_exporter.clock import SYSTEM, Clock
from virtpoise_exporter.errors import Incomplete
from virtpoise_exporter.exposition import Family, render
from virtpoise_exporter.log import log

# Between two complaints about a collector: whoever scrapes may give it so little time that it fails each second time.
_QUIET_SECONDS = 60.0
_COLLECTORS_SHARE = 0.9  # of the deadline, so that a collector that uses all its time is still in the scrape


class Collector(Protocol):
    """Reads one topic. It holds no lock during a read, has no timeout of its own, and raises if it cannot read.

    Where it reads some of its files alone, it raises Incomplete with their figures.
    """

    @property
    def name(self) -> str:
        """The collector's name in flags and labels."""

    def collect(self, seconds: float, /) -> list[Family]:
        """Fresh families, if possible within ``seconds``: a scrape waits no longer."""


@runtime_checkable
class BackgroundCollector(Collector, Protocol):
    """A collector that also works between scrapes, once it has been started."""

    def start(self) -> None:
        """Starts to work in the background."""


@dataclass(frozen=True, slots=True)
class _Result:
    families: Sequence[Family]
    success: bool
    seconds: float


class _Lane:
    """A thread that runs one collector at a time; while it hangs, scrapes go on without that collector."""

    def __init__(self, collector: Collector, clock: Clock) -> None:
        self.collector = collector
        self._clock = clock
        self._complained = ""
        self._quiet_until = 0.0
        self._queue: SimpleQueue[tuple[Future[_Result], float]] = SimpleQueue()
        threading.Thread(target=self._run, name=f"collect-{collector.name}", daemon=True).start()

    def ask(self, until: float) -> Future[_Result]:
        future: Future[_Result] = Future()
        self._queue.put((future, until))
        return future

    def late(self, seconds: float) -> None:
        """Notes that the collector did not answer in time."""
        self._complain(f"it did not answer within {seconds:.0f} s")

    def _run(self) -> None:
        while True:
            future, until = self._queue.get()
            if future.set_running_or_notify_cancel():
                future.set_result(self._collect(until))

    def _collect(self, until: float) -> _Result:
        began = time.monotonic()
        try:
            families: Sequence[Family] = self.collector.collect(max(0.0, until - began))
            success = True
        except Incomplete as error:
            self._complain(str(error))
            families, success = error.families, False
        except Exception as error:  # a failing collector never breaks the scrape
            log.debug("collector %s failed", self.collector.name, exc_info=True)
            self._complain(repr(error))
            families, success = [], False
        else:
            self._complain("")
        return _Result(families, success, time.monotonic() - began)

    def _complain(self, reason: str) -> None:
        """Logs why the collector fails, once for each reason and once a minute, and that it succeeds again: scrapes
        come all the time.
        """
        now = self._clock.monotonic()
        if reason == self._complained or (reason and now < self._quiet_until):
            return
        self._complained = reason
        if reason:
            self._quiet_until = now + _QUIET_SECONDS
            log.error("collector %s failed: %s", self.collector.name, reason)
        else:
            log.info("collector %s succeeds again", self.collector.name)


class Scraper:
    """Runs all collectors at once and renders what came in time. ``extra`` returns an exposition to append."""

    def __init__(
        self, collectors: Iterable[Collector], extra: Callable[[], bytes] = bytes, clock: Clock = SYSTEM
    ) -> None:
        self._lanes = tuple(_Lane(collector, clock) for collector in collectors)
        self._extra = extra

    def scrape(self, seconds: float) -> bytes:
        """The exposition, after at most ``seconds``."""
        began = time.monotonic()
        asked = [(lane, lane.ask(began + seconds * _COLLECTORS_SHARE)) for lane in self._lanes]
        wait([future for _, future in asked], timeout=seconds)
        families: list[Family] = []
        success, duration = Family(metrics.COLLECTOR_SUCCESS), Family(metrics.COLLECTOR_DURATION)
        for lane, future in asked:
            name = lane.collector.name
            if future.done():
                result = future.result()
            else:
                future.cancel()  # if it has not started: a lane that hangs gathers no queue
                lane.late(seconds)
                result = _Result((), success=False, seconds=time.monotonic() - began)
            families += result.families
            success.add(1 if result.success else 0, name)
            duration.add(result.seconds, name)
        build = Family(metrics.BUILD_INFO)
        build.add(1, __version__)
        return render([*families, success, duration, build]) + self._extra()
