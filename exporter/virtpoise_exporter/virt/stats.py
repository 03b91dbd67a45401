"""Statistics from libvirt, asked so that no domain can hold up the others.

libvirt answers a question about many domains one by one, and NOWAIT only keeps it from waiting for a domain that is busy
with somebody else's question. A domain whose QEMU does not answer is not busy until it is asked: that question hangs as
long as QEMU does (seen: 4 s at both ends of a migration, for ever if QEMU is stopped), and the domains after it wait too.
But whoever hangs holds that domain's job, so the same question asked again steps over it.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, Final

import libvirt

from virtpoise_exporter.log import log
from virtpoise_exporter.virt.link import Link
from virtpoise_exporter.virt.model import Domain

AT_ONCE: Final = 25  # domains in one question: some 0.2 s where nothing hangs
PATIENCE_SECONDS: Final = 1.0
MOST_HANGING: Final = 8

Answer = Mapping[str, Mapping[str, Any]]
"""By uuid: libvirt's keys and values, e.g. `{"cpu.time": 540000000, ...}`."""


Ask = Callable[[Sequence[Domain], float], Answer]
"""Asks for some domains, for at most so many seconds; those that were not answered for are left out."""


class Stats:
    """Asks `groups` (VIR_DOMAIN_STATS_*) of domains. A question that hangs is left to its thread, of which there are at
    most `MOST_HANGING`; it ends when QEMU answers, or when the connection is lost."""

    def __init__(self, link: Link, groups: int) -> None:
        self._link = link
        self._groups = groups
        self._hanging = threading.BoundedSemaphore(MOST_HANGING)

    def ask(self, domains: Sequence[Domain], seconds: float) -> Answer:
        """What libvirt answered now, after at most `seconds`. Domains it did not answer for are left out."""
        until = time.monotonic() + seconds
        answer: dict[str, Mapping[str, Any]] = {}
        for first in range(0, len(domains), AT_ONCE):
            answer |= self._ask_some(domains[first : first + AT_ONCE], until)
        return answer

    def _ask_some(self, domains: Sequence[Domain], until: float) -> Answer:
        handles = self._link.handles([domain.uuid for domain in domains])
        while handles and time.monotonic() < until and self._hanging.acquire(blocking=False):
            future: Future[Answer] = Future()
            threading.Thread(target=self._run, args=(handles, future), name="libvirt-stats", daemon=True).start()
            try:
                return future.result(min(PATIENCE_SECONDS, max(0.0, until - time.monotonic())))
            except FutureTimeoutError:
                log.debug("a domain's QEMU does not answer; asking for the others again")
            except libvirt.libvirtError as error:
                log.debug("no statistics: %s", error)
                break
        return {}

    def _run(self, handles: Sequence[Any], future: Future[Answer]) -> None:
        try:
            listed = (
                handles[0]
                .connect()
                .domainListGetStats(handles, self._groups, libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT)
            )
            future.set_result({handle.UUIDString(): stats for handle, stats in listed})
        except Exception as error:
            future.set_exception(error)
        finally:
            self._hanging.release()
