"""Statistics from libvirt, asked for so that a domain that hangs delays no other domain.

libvirt answers a question about many domains one by one. NOWAIT makes it skip a domain that is busy with another
question. A domain whose QEMU does not answer is not busy until it is asked. Then that question hangs as long as QEMU
does, and so do the domains after it (seen: 4 s at both ends of a migration, for ever if QEMU is stopped). But the
question that hangs holds that domain's job, so the same question asked again skips that domain.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import libvirt

from virtpoise_exporter.log import log
from virtpoise_exporter.virt.link import Link
from virtpoise_exporter.virt.model import Domain
from virtpoise_exporter.virt.questions import UNREADABLE

_AT_ONCE = 25  # domains in one question: some 0.2 s where nothing hangs
_MOST_DEVICES = 4096  # of a kind, of one domain: libvirt's type of a count holds 2^32, which take hours
STATS_PATIENCE_SECONDS = 1.0
# libvirtd works on five questions of a client at once (max_client_requests) and then reads nothing more from it, not
# even keepalives. The fifth is left for the list of domains.
_MOST_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class Answer:
    """libvirt's keys and values by uuid, e.g. ``{"cpu.time": 540000000, ...}``.

    ``seconds``: how long libvirt took for what it answered. ``complete``: whether it answered every question.
    """

    stats: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    seconds: float = 0.0
    complete: bool = True


Ask = Callable[[Sequence[Domain], float], Answer]
"""A function that asks for some domains within a number of seconds. Domains without an answer are left out."""


class Stats:
    """Asks over the link's one connection.

    A question that hangs is left to its thread, which ends when QEMU answers or the connection is lost. All callers
    together have at most ``_MOST_AT_ONCE`` such threads.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._room = threading.BoundedSemaphore(_MOST_AT_ONCE)

    def of(self, groups: int) -> Ask:
        """A function that asks for ``groups`` (VIR_DOMAIN_STATS_*)."""
        return partial(self._ask, groups)

    def _ask(self, groups: int, domains: Sequence[Domain], seconds: float) -> Answer:
        """What libvirt answered now, after at most ``seconds``. Domains it did not answer for are left out."""
        until = time.monotonic() + seconds
        stats: dict[str, Mapping[str, Any]] = {}
        took, complete = 0.0, True
        for first in range(0, len(domains), _AT_ONCE):
            answer = self._ask_some(groups, domains[first : first + _AT_ONCE], until)
            if answer is None:
                return Answer(stats, took, complete=False)
            stats |= answer.stats
            took += answer.seconds
            complete = complete and answer.complete
        return Answer(stats, took, complete)

    def _ask_some(self, groups: int, domains: Sequence[Domain], until: float) -> Answer | None:
        """The answer for one batch; None if there is no time or no free thread to ask."""
        handles = self._link.handles([domain.uuid for domain in domains])
        complete = len(handles) == len(domains)
        if not handles:
            return Answer(complete=complete)
        held: set[str] = set()
        while (room := _patience(until)) > 0 and self._room.acquire(timeout=room):
            began = time.monotonic()
            future: Future[Mapping[str, Mapping[str, Any]]] = Future()
            threading.Thread(
                target=self._run, args=(groups, handles, future), name="libvirt-stats", daemon=True
            ).start()
            try:
                return Answer(future.result(_patience(until)), time.monotonic() - began, complete)
            except FutureTimeoutError:
                log.debug("a domain's QEMU does not answer; asking for the others again")
                complete = False
                # a domain that libvirt holds locked is not skipped: it would hold up the next question as well
                held |= self._link.held([handle.UUIDString() for handle in handles])
                handles = [handle for handle in handles if handle.UUIDString() not in held]
                if not handles:
                    return Answer(complete=False)
            except (libvirt.libvirtError, *UNREADABLE) as error:
                log.debug("no statistics of %d domains: %s", len(handles), error)
                return self._halves(groups, domains, until)
        return None

    def _halves(self, groups: int, domains: Sequence[Domain], until: float) -> Answer:
        """Asks for each half by itself: one domain whose answer cannot be had or read takes no other's."""
        if len(domains) < 2 or self._link.inventory() is None:
            return Answer(complete=False)
        middle = len(domains) // 2
        answers = [self._ask_some(groups, half, until) for half in (domains[:middle], domains[middle:])]
        stats = {uuid: one for answer in answers if answer for uuid, one in answer.stats.items()}
        return Answer(stats, sum(answer.seconds for answer in answers if answer), complete=False)

    def _run(self, groups: int, handles: Sequence[Any], future: Future[Mapping[str, Mapping[str, Any]]]) -> None:
        try:
            listed = (
                handles[0]
                .connect()
                .domainListGetStats(handles, groups, libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT)
            )
            future.set_result({handle.UUIDString(): stats for handle, stats in listed})
        except Exception as error:
            future.set_exception(error)
        finally:
            self._room.release()


def devices(stats: Mapping[str, Any], kind: str) -> range:
    """The numbers of a domain's devices in its statistics. ``kind``: "block" or "net"."""
    return range(min(stats.get(f"{kind}.count", 0), _MOST_DEVICES))


def _patience(until: float) -> float:
    return min(STATS_PATIENCE_SECONDS, max(0.0, until - time.monotonic()))
