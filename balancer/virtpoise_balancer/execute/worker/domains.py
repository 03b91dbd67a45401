"""Questions about the domains of one host, and what is done to them there. Each takes an open connection first."""

from __future__ import annotations

import libvirt

from virtpoise_balancer.execute.facts import Presence

_FLAGS = (
    libvirt.VIR_MIGRATE_LIVE
    | libvirt.VIR_MIGRATE_PEER2PEER
    | libvirt.VIR_MIGRATE_PERSIST_DEST
    | libvirt.VIR_MIGRATE_UNDEFINE_SOURCE
    | libvirt.VIR_MIGRATE_ABORT_ON_ERROR
)

_WHY_OFF = {
    libvirt.VIR_DOMAIN_SHUTOFF_SHUTDOWN: Presence.SHUT_OFF,
    libvirt.VIR_DOMAIN_SHUTOFF_SAVED: Presence.SHUT_OFF,
    libvirt.VIR_DOMAIN_SHUTOFF_FROM_SNAPSHOT: Presence.SHUT_OFF,
    libvirt.VIR_DOMAIN_SHUTOFF_DESTROYED: Presence.DESTROYED,
}
_PAUSED_BY_A_MIGRATION = (
    libvirt.VIR_DOMAIN_PAUSED_MIGRATION,
    libvirt.VIR_DOMAIN_PAUSED_STARTING_UP,
    libvirt.VIR_DOMAIN_PAUSED_POSTCOPY,
    libvirt.VIR_DOMAIN_PAUSED_POSTCOPY_FAILED,
)


def active_domains(connection: libvirt.virConnect) -> int:
    """How many domains are there in any state but shut off."""
    return int(connection.numOfDomains())


def presence(connection: libvirt.virConnect, uuid: str) -> str:
    """How the domain stands on this host, as a value of ``Presence``."""
    try:
        domain = connection.lookupByUUIDString(uuid)
        state, reason = domain.state()
        if state in (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_BLOCKED):
            return Presence.RUNNING
        if state == libvirt.VIR_DOMAIN_SHUTOFF:
            return _WHY_OFF.get(reason, Presence.DEFINED)
        if state == libvirt.VIR_DOMAIN_PAUSED and reason in _PAUSED_BY_A_MIGRATION:
            return Presence.MIGRATING
        return Presence.PAUSED if domain.isActive() else Presence.DEFINED
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return Presence.ABSENT
        raise


def job(connection: libvirt.virConnect, uuid: str) -> dict[str, object] | None:
    """libvirt's statistics of the domain's running job; None when there is no job."""
    try:
        stats: dict[str, object] = connection.lookupByUUIDString(uuid).jobStats()
    except libvirt.libvirtError as error:
        # A domain that is not here, or does not run, has no job.
        if error.get_error_code() in (libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_OPERATION_INVALID):
            return None
        raise
    return None if stats.get("type", libvirt.VIR_DOMAIN_JOB_NONE) == libvirt.VIR_DOMAIN_JOB_NONE else stats


def completed_job(connection: libvirt.virConnect, uuid: str) -> dict[str, object]:
    """libvirt's statistics of the domain's last migration to this host."""
    stats: dict[str, object] = connection.lookupByUUIDString(uuid).jobStats(libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED)
    return stats


def migrate(
    connection: libvirt.virConnect, uuid: str, target: str, bandwidth_mib_per_second: int | None, encrypted: bool
) -> None:
    """Migrate the domain to the daemon at ``target``; returns when it has ended. ``encrypted``: its memory crosses the network by TLS.

    Peer-to-peer, so that the source's daemon drives it and it goes on when this process dies; persistent on the destination and undefined
    on the source, so that no stale definition stays behind (https://libvirt.org/migration.html).
    """
    bandwidth = bandwidth_mib_per_second
    parameters = {} if bandwidth is None else {libvirt.VIR_MIGRATE_PARAM_BANDWIDTH: bandwidth}
    flags = _FLAGS | libvirt.VIR_MIGRATE_TLS if encrypted else _FLAGS
    connection.lookupByUUIDString(uuid).migrateToURI3(target, parameters, flags)


def abort(connection: libvirt.virConnect, uuid: str) -> None:
    """Abort the domain's running job."""
    connection.lookupByUUIDString(uuid).abortJob()


def undefine(connection: libvirt.virConnect, uuid: str) -> None:
    """Remove the domain's definition from this host; one that is gone already is no error."""
    try:
        connection.lookupByUUIDString(uuid).undefine()
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
            raise
