"""Questions about the domains of one host, and what is done to them there. Each takes an open connection first."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

import libvirt

from virtpoise_balancer.execute.facts import Presence
from virtpoise_balancer.execute.worker.connection import UNREADABLE, text_of

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
)
# A migration by post-copy broke: on its source, and on its destination.
_TORN = (
    (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_POSTCOPY_FAILED),
    (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_RUNNING_POSTCOPY_FAILED),
)
_SWITCHED = (libvirt.VIR_DOMAIN_PAUSED_POSTCOPY, libvirt.VIR_DOMAIN_PAUSED_POSTCOPY_FAILED)
_RUNNING_SINCE = {
    libvirt.VIR_DOMAIN_RUNNING_BOOTED: "started here",
    libvirt.VIR_DOMAIN_RUNNING_MIGRATED: "arrived by a migration",
    libvirt.VIR_DOMAIN_RUNNING_UNPAUSED: "resumed here",
    libvirt.VIR_DOMAIN_RUNNING_MIGRATION_CANCELED: "resumed here after a migration that failed",
}
_JOB_ENDS = {libvirt.VIR_DOMAIN_JOB_COMPLETED: "completed", libvirt.VIR_DOMAIN_JOB_FAILED: "failed"}
_MIGRATIONS = {
    libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_IN: "a migration to here",
    libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT: "a migration away",
}


class LeftAlone(Exception):
    """The domain's job must not be aborted: it is no migration, or one that has been switched to post-copy."""


def active_domains(connection: libvirt.virConnect) -> int:
    """How many domains are there in any state but shut off."""
    return int(connection.numOfDomains())


def presence(connection: libvirt.virConnect, uuid: str) -> str:
    """How the domain stands on this host, as a value of ``Presence``."""
    try:
        domain = connection.lookupByUUIDString(uuid)
        state, reason = domain.state()
        if (state, reason) in _TORN:
            return Presence.TORN
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


def between_hosts(connection: libvirt.virConnect) -> list[tuple[str, str]]:
    """The domains that a migration has paused here, on their way in or out, as (uuid, name). One question, however many
    domains there are, and one more for each that is paused; libvirt asks no QEMU for either.
    """
    found = []
    for domain in connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_PAUSED):
        with contextlib.suppress(libvirt.libvirtError, *UNREADABLE):  # it is gone by now
            state, reason = domain.state()
            if state == libvirt.VIR_DOMAIN_PAUSED and reason in (*_PAUSED_BY_A_MIGRATION, *_SWITCHED):
                found.append((domain.UUIDString(), text_of(domain.name)))
    return found


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


def is_migration(stats: Mapping[str, object]) -> bool:
    """Whether the statistics are those of a migration. Others are backups, dumps or snapshots: a person's jobs."""
    return stats.get("operation", libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT) in _MIGRATIONS


def migration_job(connection: libvirt.virConnect, uuid: str) -> dict[str, object] | None:
    """libvirt's statistics of the domain's running migration; None when there is none, whatever else works on it.

    ``switched``: to post-copy.
    """
    stats = job(connection, uuid)
    if stats is None or not is_migration(stats):
        return None
    return stats | {"switched": _is_switched(connection.lookupByUUIDString(uuid))}


def is_worked_on(connection: libvirt.virConnect, uuid: str) -> bool:
    """Whether the domain has a running job here, of whatever kind."""
    return job(connection, uuid) is not None


def completed_job(connection: libvirt.virConnect, uuid: str) -> dict[str, object]:
    """libvirt's statistics of the domain's last migration to this host."""
    stats: dict[str, object] = connection.lookupByUUIDString(uuid).jobStats(libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED)
    return stats


def resume(connection: libvirt.virConnect, uuid: str) -> None:
    """Let the domain's CPUs run; where they run already this is no error."""
    connection.lookupByUUIDString(uuid).resume()


def suspend(connection: libvirt.virConnect, uuid: str) -> None:
    """Stop the domain's CPUs. Nothing of it is lost."""
    connection.lookupByUUIDString(uuid).suspend()


def describe(connection: libvirt.virConnect, uuid: str) -> str:
    """What distinguishes this copy of the domain, in words: how it came to run, its CPU time, its last job."""
    domain = connection.lookupByUUIDString(uuid)
    state, reason = domain.state()
    words = str(presence(connection, uuid))
    if state == libvirt.VIR_DOMAIN_RUNNING and reason in _RUNNING_SINCE:
        words += f", {_RUNNING_SINCE[reason]}"
    words += f", {domain.info()[4] / 1e9:.0f} s of CPU time"
    stats = domain.jobStats(libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED | libvirt.VIR_DOMAIN_JOB_STATS_KEEP_COMPLETED)
    end, what = _JOB_ENDS.get(stats.get("type")), _MIGRATIONS.get(stats.get("operation"))
    return f"{words}, last job: {what}, {end}" if end and what else f"{words}, no last job is known"


def abort(connection: libvirt.virConnect, uuid: str) -> None:
    """Abort the domain's migration. LeftAlone where another job works on it, and where it runs on the destination."""
    domain = connection.lookupByUUIDString(uuid)
    if _is_switched(domain):
        raise LeftAlone("abort: it has been switched to post-copy")
    if not is_migration(domain.jobStats()):
        raise LeftAlone("abort: the domain's job is no migration")
    domain.abortJob()


def _is_switched(domain: libvirt.virDomain) -> bool:
    """Whether its migration away has been switched to post-copy."""
    state, reason = domain.state()
    return bool(state == libvirt.VIR_DOMAIN_PAUSED and reason in _SWITCHED)


def undefine(connection: libvirt.virConnect, uuid: str) -> None:
    """Remove the domain's definition from this host; one that is gone already is no error.

    libvirt must be asked to keep a UEFI domain's file of variables, or to delete it. It stays: hosts may share it.
    """
    try:
        domain = connection.lookupByUUIDString(uuid)
        has_variables = "<nvram" in text_of(domain.XMLDesc)
        domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_KEEP_NVRAM if has_variables else 0)
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
            raise
