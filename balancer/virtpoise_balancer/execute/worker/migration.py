"""Live migrations, and what libvirt can measure before one. Each call takes an open connection to the source first."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import libvirt

from virtpoise_balancer.execute.transfer import Throttle, Transfer
from virtpoise_balancer.execute.worker.connection import LibvirtConnection, text_of
from virtpoise_balancer.execute.worker.domains import resume

FLAGS = (
    libvirt.VIR_MIGRATE_LIVE
    | libvirt.VIR_MIGRATE_PEER2PEER
    | libvirt.VIR_MIGRATE_PERSIST_DEST
    | libvirt.VIR_MIGRATE_UNDEFINE_SOURCE
    | libvirt.VIR_MIGRATE_ABORT_ON_ERROR
    | libvirt.VIR_MIGRATE_PAUSED
)
_MEASURED_SECONDS = 1
# How much longer a measurement may take on a busy host, and how often to look.
_MEASURING_TAKES_SECONDS = 10.0
_LOOK_SECONDS = 0.1
_LEAST_DOWNTIME_MILLISECONDS = 1
# Names that the constants of libvirt 9.0 lack.
_ZSTD_LEVEL = "compression.zstd.level"
# libvirt's word for no limit: the largest that QEMU's bytes per second can hold.
_UNLIMITED_MIB_PER_SECOND = (1 << 63) // (1 << 20) - 1


def migrate(
    connection: libvirt.virConnect,
    uuid: str,
    target: str,
    watched: str,
    address: str | None,
    bandwidth_mib_per_second: int | None,
    transfer: Mapping[str, Any],
    copied: Sequence[str],
    post_copy: bool = False,
) -> float | None:
    """Migrate the domain to the daemon at ``target`` and start it there; returns when it has ended. ``target``: the
    destination's address for the source's daemon; ``watched``: the same for this process. ``address``: the URI that
    the domain's memory is sent to; None: the destination names one. ``transfer``: the fields of a Transfer.
    ``copied``: the disks that are copied, by their devices in the guest; their volumes are there already.

    Peer-to-peer, so that the source's daemon drives it and it goes on when this process dies; persistent on the
    destination and undefined on the source, so that no stale definition stays behind
    (https://libvirt.org/migration.html). It arrives paused, and is started when libvirt has reported that the source
    has given it up: libvirt alone may come to start it on both hosts (decision 36).

    With ``post_copy`` libvirt starts it there, since it refuses that together with a domain that arrives paused. So it
    must be handed over by the switch, after which the source cannot go on: without it nearly nothing may remain for the
    last part (decision 60).

    Returns for how many seconds it waited there; None where that was not seen, or it is still to be started.
    """
    throttle = transfer["throttle"]
    how = Transfer(**{**transfer, "throttle": None if throttle is None else Throttle(**throttle)})
    flags, parameters = _by_post_copy(how) if post_copy else _as_libvirt_has_it(how)
    if copied:
        flags |= libvirt.VIR_MIGRATE_NON_SHARED_DISK
        parameters[libvirt.VIR_MIGRATE_PARAM_MIGRATE_DISKS] = list(copied)
    if bandwidth_mib_per_second is not None:
        parameters[libvirt.VIR_MIGRATE_PARAM_BANDWIDTH] = bandwidth_mib_per_second
        if post_copy:
            parameters[libvirt.VIR_MIGRATE_PARAM_BANDWIDTH_POSTCOPY] = bandwidth_mib_per_second
    if address is not None:
        parameters[libvirt.VIR_MIGRATE_PARAM_URI] = address
    there = LibvirtConnection()
    arrived: list[float] = []

    moving = connection.lookupByUUIDString(uuid)
    _ensure_may_resume(moving)

    def note(_connection: object, domain: libvirt.virDomain, event: int, _detail: int, _nothing: object) -> None:
        if event == libvirt.VIR_DOMAIN_EVENT_SUSPENDED and domain.UUIDString() == uuid:
            arrived.append(time.monotonic())

    try:
        there.to(watched).domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, note, None)
        with _downtime_limit(moving, 0.0 if post_copy else how.max_downtime_seconds):
            moving.migrateToURI3(target, parameters, flags)
        if post_copy:
            return None  # libvirt has started it
        try:
            resume(there.to(watched), uuid)
        except libvirt.libvirtError:
            return None  # it has arrived: whoever looks next starts it
        return time.monotonic() - arrived[-1] if arrived else None
    finally:
        there.close()


@contextlib.contextmanager
def _downtime_limit(domain: libvirt.virDomain, seconds: float | None) -> Iterator[None]:
    """Limits the downtime at the end of the domain's migration. None: QEMU's own limit stands.

    That is no parameter of a migration. The source's QEMU keeps it, so it is set back where the domain stays.
    """
    if seconds is None:
        yield
        return
    before = domain.migrateGetMaxDowntime()
    domain.migrateSetMaxDowntime(max(round(seconds * 1000), _LEAST_DOWNTIME_MILLISECONDS))
    try:
        yield
    except libvirt.libvirtError:
        with contextlib.suppress(libvirt.libvirtError):
            domain.migrateSetMaxDowntime(before)
        raise


def switch(connection: libvirt.virConnect, uuid: str) -> None:
    """Let the domain run on the destination of its migration, before the rest of its memory is there."""
    connection.lookupByUUIDString(uuid).migrateStartPostCopy()


def dirty_rate(connection: libvirt.virConnect, uuid: str, least_bytes: int) -> float | None:
    """How many bytes of its memory the domain writes to per second; None where it has less memory than that.

    By a dirty ring where the domain has one, else by samples of its pages. The third way, dirty bitmaps, ends a QEMU
    without KVM (7.2).
    """
    domain = connection.lookupByUUIDString(uuid)
    if domain.info()[2] << 10 < least_bytes:
        return None
    ring = "<dirty-ring state='on'" in text_of(domain.XMLDesc)
    mode = libvirt.VIR_DOMAIN_DIRTYRATE_MODE_DIRTY_RING if ring else libvirt.VIR_DOMAIN_DIRTYRATE_MODE_PAGE_SAMPLING
    domain.startDirtyRateCalc(_MEASURED_SECONDS, mode)
    deadline = time.monotonic() + _MEASURED_SECONDS + _MEASURING_TAKES_SECONDS
    while time.monotonic() < deadline:
        time.sleep(_LOOK_SECONDS)
        ((_, stats),) = connection.domainListGetStats([domain], libvirt.VIR_DOMAIN_STATS_DIRTYRATE)
        if stats.get("dirtyrate.calc_status") == libvirt.VIR_DOMAIN_DIRTYRATE_MEASURED:
            return float(stats["dirtyrate.megabytes_per_second"] << 20)
    return None


def set_bandwidth(connection: libvirt.virConnect, uuid: str, bandwidth_mib_per_second: int | None) -> None:
    """Limit the migration of the domain that is under way; None ends the limit."""
    limit = _UNLIMITED_MIB_PER_SECOND if bandwidth_mib_per_second is None else bandwidth_mib_per_second
    connection.lookupByUUIDString(uuid).migrateSetMaxSpeed(limit)


def _as_libvirt_has_it(how: Transfer) -> tuple[int, dict[str, str | int | list[str]]]:
    """The flags and the parameters that libvirt takes for it."""
    flags = FLAGS
    parameters: dict[str, str | int | list[str]] = {}
    if how.encrypted:
        flags |= libvirt.VIR_MIGRATE_TLS
    if how.connections > 1:
        flags |= libvirt.VIR_MIGRATE_PARALLEL
        parameters[libvirt.VIR_MIGRATE_PARAM_PARALLEL_CONNECTIONS] = how.connections
    if how.compression is not None:
        flags |= libvirt.VIR_MIGRATE_COMPRESSED
        parameters[libvirt.VIR_MIGRATE_PARAM_COMPRESSION] = how.compression
    if how.zstd_level is not None:
        parameters[_ZSTD_LEVEL] = how.zstd_level
    if how.xbzrle_cache_bytes is not None:
        parameters[libvirt.VIR_MIGRATE_PARAM_COMPRESSION_XBZRLE_CACHE] = how.xbzrle_cache_bytes
    if how.throttle is not None:
        flags |= libvirt.VIR_MIGRATE_AUTO_CONVERGE
        parameters[libvirt.VIR_MIGRATE_PARAM_AUTO_CONVERGE_INITIAL] = how.throttle.initial_percent
        parameters[libvirt.VIR_MIGRATE_PARAM_AUTO_CONVERGE_INCREMENT] = how.throttle.increment_percent
    return flags, parameters


def _by_post_copy(how: Transfer) -> tuple[int, dict[str, str | int | list[str]]]:
    """The same, where the migration may be switched. QEMU has neither parallel connections nor compression then, and a
    guest that is to be switched after one pass need not be throttled.
    """
    flags, parameters = _as_libvirt_has_it(Transfer(encrypted=how.encrypted))
    return (flags & ~libvirt.VIR_MIGRATE_PAUSED) | libvirt.VIR_MIGRATE_POSTCOPY, parameters


def _ensure_may_resume(running: libvirt.virDomain) -> None:
    """libvirtError where this user may not resume domains, so that the domain would stay paused where it arrives."""
    try:
        running.resume()
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_OPERATION_INVALID:  # that is: it runs already
            raise
