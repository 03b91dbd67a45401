"""One live migration: looked at again before, watched while it runs, bounded in time, and its end read from both hosts.

Peer-to-peer, so that the source's daemon drives it and it goes on when the balancer dies; persistent on the destination and
undefined on the source, so that no stale definition stays behind (https://libvirt.org/migration.html).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum

import libvirt

from virtpoise_balancer.errors import LibvirtError
from virtpoise_balancer.execute.connections import connect, said, within
from virtpoise_balancer.model import Move, Outcome, Progress, Result

_FLAGS = (
    libvirt.VIR_MIGRATE_LIVE
    | libvirt.VIR_MIGRATE_PEER2PEER
    | libvirt.VIR_MIGRATE_PERSIST_DEST
    | libvirt.VIR_MIGRATE_UNDEFINE_SOURCE
    | libvirt.VIR_MIGRATE_ABORT_ON_ERROR
)
_WATCH_SECONDS = 0.5
# What libvirt may take to end an aborted migration, and to answer a question while one runs (calls wait for the job's lock).
_ABORT_SECONDS = 60.0
_ANSWER_SECONDS = 30.0
# For how long a domain may be between its hosts when its job has ended; one that stays paused for longer was paused by somebody.
_HANDOVER_SECONDS = 20.0

Watch = Callable[[Progress], None]


@dataclass(slots=True)
class _Seen:
    """Passes on how a migration gets on, and keeps of it what is gone when its job has ended."""

    watch: Watch
    dirty_bytes_per_second: float | None = None

    def __call__(self, progress: Progress) -> None:
        # QEMU knows no rate, and says 0, until it has been through the memory once.
        self.dirty_bytes_per_second = progress.dirty_bytes_per_second or self.dirty_bytes_per_second
        self.watch(progress)

    def told(self, outcome: Outcome) -> Outcome:
        return replace(outcome, dirty_bytes_per_second=self.dirty_bytes_per_second)


class Presence(Enum):
    """What a host says of a domain."""

    ABSENT = "absent"
    DEFINED = "defined"
    PAUSED = "paused"
    RUNNING = "running"


@dataclass(frozen=True, slots=True, kw_only=True)
class Migrator:
    """Migrates domains. ``uri_of``: a host's address, used by the balancer and by the source host alike."""

    uri_of: Callable[[str], str]
    connect_timeout_seconds: float
    timeout_seconds: float
    stop_grace_seconds: float
    bandwidth_mib_per_second: int | None = None

    def migrate(self, move: Move, watch: Watch, stop: threading.Event) -> Outcome | None:
        """Carry out one move. Never raises for what libvirt says or does not say: the outcome tells.

        None when it was begun and its end cannot be told now: ``settle`` will tell it.
        """
        began: float | None = None
        seen = _Seen(watch)
        try:
            source = self._connect(move.source)
            destination = self._connect(move.destination)
        except LibvirtError as error:
            return Outcome(result=Result.SKIPPED, why=str(error))
        try:
            if why := self._obstacle(move, source, destination):
                return Outcome(result=Result.SKIPPED, why=why)
            began = time.monotonic()
            wrong = self._run(move, source, seen, stop, began)
            return seen.told(self._verified(move, source, destination, time.monotonic() - began, wrong))
        except LibvirtError as error:
            return None if began is not None else Outcome(result=Result.FAILED, why=str(error))
        finally:
            _close(source, destination)

    def settle(self, move: Move, watch: Watch, stop: threading.Event) -> Outcome | None:
        """The outcome of a move whose end was not seen, waiting while its job runs; None while it cannot be told."""
        seen = _Seen(watch)
        try:
            source = self._connect(move.source)
            destination = self._connect(move.destination)
        except LibvirtError:
            return None
        try:
            while not stop.is_set() and (progress := _progress(source, move.uuid)) is not None:
                seen(progress)
                stop.wait(_WATCH_SECONDS)
            if stop.is_set():
                return None
            return seen.told(self._verified(move, source, destination, None, "the end of the migration was not seen"))
        except LibvirtError:
            return None
        finally:
            _close(source, destination)

    def active_domains(self, host: str) -> int:
        """How many domains the host's libvirt has in any state but shut off. LibvirtError when it does not answer."""
        connection = self._connect(host)
        try:
            return int(within(_ANSWER_SECONDS, connection.numOfDomains, host))
        finally:
            _close(connection)

    def _connect(self, host: str) -> libvirt.virConnect:
        return connect(self.uri_of(host), self.connect_timeout_seconds)

    def _obstacle(self, move: Move, source: libvirt.virConnect, destination: libvirt.virConnect) -> str | None:
        """Why the move is not to be made now, as both hosts tell it (law 5)."""
        here = presence(source, move.uuid, move.source)
        if here is not Presence.RUNNING:
            return f"{move.domain} is {here.value} on {move.source}, no longer running there"
        there = presence(destination, move.uuid, move.destination)
        if there in (Presence.RUNNING, Presence.PAUSED):
            return f"{move.domain} is already {there.value} on {move.destination}"
        if _progress(source, move.uuid) is not None:
            return f"{move.domain} is being worked on by another job"
        return None

    def _run(
        self, move: Move, source: libvirt.virConnect, watch: Watch, stop: threading.Event, began: float
    ) -> str | None:
        """Start the migration and wait for its end; what went wrong, or None. LibvirtError when it does not end."""
        domain = source.lookupByUUIDString(move.uuid)
        target = self.uri_of(move.destination)
        bandwidth = self.bandwidth_mib_per_second
        parameters = {} if bandwidth is None else {libvirt.VIR_MIGRATE_PARAM_BANDWIDTH: bandwidth}
        ended = threading.Event()
        said_at_end: list[str | None] = []

        def run() -> None:
            try:
                domain.migrateToURI3(target, parameters, _FLAGS)
                said_at_end.append(None)
            except libvirt.libvirtError as error:
                said_at_end.append(said(error))
            finally:
                ended.set()

        threading.Thread(target=run, name=f"migrate {move.domain}", daemon=True).start()
        why: str | None = None
        limit = self.timeout_seconds
        while not ended.wait(_WATCH_SECONDS):
            if stop.is_set():
                limit = min(limit, time.monotonic() - began + self.stop_grace_seconds)
                stop = threading.Event()  # heard once
                why = "told to stop"
            if time.monotonic() - began >= limit:
                why = f"aborted: {why or f'longer than {self.timeout_seconds:g} s'}"
                _abort(domain)
                break
            progress = _progress(source, move.uuid)
            if progress is not None:
                watch(progress)
        else:
            return said_at_end[0]
        if not ended.wait(_ABORT_SECONDS):
            raise LibvirtError(f"{why}, and libvirt has not ended it after {_ABORT_SECONDS:g} s more")
        return why if said_at_end[0] else None

    def _verified(
        self,
        move: Move,
        source: libvirt.virConnect,
        destination: libvirt.virConnect,
        seconds: float | None,
        wrong: str | None,
    ) -> Outcome:
        """The outcome as both hosts tell it, whatever the call said: a failed call may have moved the domain after all.

        LibvirtError while one of them does not tell.
        """
        patience = time.monotonic() + _HANDOVER_SECONDS
        while True:
            here = self._presence_afresh(source, move, move.source)
            there = self._presence_afresh(destination, move, move.destination)
            if not _in_handover(here, there) or time.monotonic() >= patience:
                break
            time.sleep(_WATCH_SECONDS)
        places = f"{here.value} on {move.source}, {there.value} on {move.destination}"
        if there is Presence.RUNNING and here is Presence.ABSENT:
            return _done(destination, move.uuid, seconds)
        if there is Presence.RUNNING and here is Presence.DEFINED:
            # The domain moved, but its old definition stayed; left behind it could be started a second time.
            try:
                within(_ANSWER_SECONDS, lambda: _undefine(source, move.uuid), "undefine")
            except LibvirtError as error:
                return Outcome(result=Result.FAILED, why=f"{places}; {error}", seconds=seconds)
            return _done(destination, move.uuid, seconds)
        return Outcome(
            result=Result.FAILED,
            why=f"{wrong or 'the migration ended'}: {places}",
            seconds=seconds,
            lost=Presence.RUNNING not in (here, there),
        )

    def _presence_afresh(self, connection: libvirt.virConnect, move: Move, host: str) -> Presence:
        """What the host says, asked over a new connection if the old one died meanwhile."""
        try:
            return presence(connection, move.uuid, host)
        except LibvirtError:
            again = self._connect(host)
            try:
                return presence(again, move.uuid, host)
            finally:
                _close(again)


def presence(connection: libvirt.virConnect, uuid: str, host: str) -> Presence:
    """How the domain stands on this host. LibvirtError when the host does not say."""

    def ask() -> Presence:
        try:
            domain = connection.lookupByUUIDString(uuid)
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                return Presence.ABSENT
            raise
        state, _reason = domain.state()
        if state in (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_BLOCKED):
            return Presence.RUNNING
        return Presence.PAUSED if domain.isActive() else Presence.DEFINED

    return within(_ANSWER_SECONDS, ask, host)


def _in_handover(here: Presence, there: Presence) -> bool:
    """Whether the two may be seen so in the midst of a hand-over: one host has not resumed or ended its side yet."""
    return Presence.PAUSED in (here, there) or here is there is Presence.RUNNING


def _undefine(connection: libvirt.virConnect, uuid: str) -> None:
    try:
        connection.lookupByUUIDString(uuid).undefine()
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:  # libvirt has undefined it meanwhile
            raise


def _progress(connection: libvirt.virConnect, uuid: str) -> Progress | None:
    """The figures of the domain's running job; None when there is none or it cannot be asked now."""
    try:
        stats = within(_ANSWER_SECONDS, lambda: connection.lookupByUUIDString(uuid).jobStats(), "job statistics")
    except LibvirtError:
        return None
    if stats.get("type", libvirt.VIR_DOMAIN_JOB_NONE) == libvirt.VIR_DOMAIN_JOB_NONE:
        return None
    pages = stats.get("memory_dirty_rate")
    return Progress(
        elapsed_seconds=stats.get("time_elapsed", 0) / 1000,
        total_bytes=stats.get("data_total", 0),
        processed_bytes=stats.get("data_processed", 0),
        remaining_bytes=stats.get("data_remaining", 0),
        dirty_bytes_per_second=None if pages is None else float(pages * stats.get("memory_page_size", 4096)),
    )


def _done(destination: libvirt.virConnect, uuid: str, seconds: float | None) -> Outcome:
    """A done outcome with libvirt's own figures, which the destination keeps of the completed job."""
    try:
        stats = within(
            _ANSWER_SECONDS,
            lambda: destination.lookupByUUIDString(uuid).jobStats(libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED),
            "job statistics",
        )
    except LibvirtError:
        stats = {}
    downtime = stats.get("downtime")
    return Outcome(
        result=Result.DONE,
        seconds=seconds if seconds is not None else stats.get("time_elapsed", 0) / 1000 or None,
        downtime_seconds=None if downtime is None else downtime / 1000,
        transferred_bytes=stats.get("data_processed"),
    )


def _abort(domain: libvirt.virDomain) -> None:
    try:
        within(_ANSWER_SECONDS, domain.abortJob, "abort")
    except LibvirtError:
        return  # it ended by itself, or the wait that follows tells


def _close(*connections: libvirt.virConnect) -> None:
    for connection in connections:
        try:
            connection.close()
        except libvirt.libvirtError:
            continue  # it was dead already
