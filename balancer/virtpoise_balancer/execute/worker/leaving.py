"""Whether libvirt would let a domain leave its host at all.

libvirt itself is asked, for a peer-to-peer migration to an address that does not exist. The source's daemon first looks
whether the domain may be migrated (``qemuMigrationSrcIsAllowed``, ``qemuMigrationSrcIsSafe``: snapshots, block jobs,
devices, what QEMU says, storage that is not shared), and only then at the address. No other host hears of it, and
nothing changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import libvirt

from virtpoise_balancer.execute.facts import Bound
from virtpoise_balancer.execute.worker.connection import UNREADABLE, message
from virtpoise_balancer.execute.worker.migration import FLAGS

# A socket of this machine has no other machine's name.
_NOWHERE = "qemu+unix://virtpoise-nowhere/system"
_NO_DOMAIN = "<virtpoise-nowhere/>"
# What the source says of the address, or of the description once a libvirt takes the address.
_MAY_LEAVE = (
    libvirt.VIR_ERR_INVALID_ARG,
    libvirt.VIR_ERR_NO_CONNECT,
    libvirt.VIR_ERR_OPERATION_FAILED,
    libvirt.VIR_ERR_XML_ERROR,
    libvirt.VIR_ERR_XML_DETAIL,
    libvirt.VIR_ERR_XML_INVALID_SCHEMA,
)
# What it says of the domain.
_MAY_NOT = (
    libvirt.VIR_ERR_MIGRATE_UNSAFE,
    libvirt.VIR_ERR_OPERATION_INVALID,
    libvirt.VIR_ERR_OPERATION_UNSUPPORTED,
    libvirt.VIR_ERR_CONFIG_UNSUPPORTED,
    libvirt.VIR_ERR_NO_SUPPORT,
)
# Its word on disks that lie on their host alone.
_NOT_SHARED = "without shared storage"
# By words of libvirt and QEMU; the first that fits.
_KINDS = (
    ("snapshot", "snapshots"),
    ("block job", "job"),
    ("disk", "storage"),
    ("device", "device"),
    ("hostdev", "device"),
    ("interface", "device"),
    ("vfio", "device"),
    ("virtfs", "device"),
    ("slirp", "device"),
)


def leaving(
    connection: libvirt.virConnect, uuids: Sequence[str], copyable: Mapping[str, Sequence[str]]
) -> dict[str, Bound | None]:
    """By uuid, why the domain may not leave this host, or None.

    Where libvirt reports nothing, the domain is left out. ``copyable``: by uuid, the devices of the disks that may be
    copied with it.
    """
    found: dict[str, Bound | None] = {}
    for uuid in uuids:
        try:
            domain = connection.lookupByUUIDString(uuid)
            if domain.jobInfo()[0] != libvirt.VIR_DOMAIN_JOB_NONE:
                found[uuid] = Bound(kind="job", why="another job works on it")  # a migration would wait for its end
                continue
            error = _answer(domain)
            if error is not None and error.get_error_code() in _MAY_LEAVE:
                found[uuid] = None
            elif error is not None and error.get_error_code() in _MAY_NOT:
                why = message(error)
                cured_by = _cured_by(domain, copyable.get(uuid, ())) if _NOT_SHARED in why.lower() else ()
                found[uuid] = Bound(kind=_kind(error), why=why, cured_by=cured_by)
        except (libvirt.libvirtError, *UNREADABLE):
            continue
    return found


def _answer(domain: libvirt.virDomain, copied: Sequence[str] = ()) -> libvirt.libvirtError | None:
    """What the source says when it is to migrate the domain nowhere, with these disks copied along."""
    parameters: dict[str, str | list[str]] = {libvirt.VIR_MIGRATE_PARAM_DEST_XML: _NO_DOMAIN}
    if copied:
        parameters[libvirt.VIR_MIGRATE_PARAM_MIGRATE_DISKS] = list(copied)
    try:
        domain.migrateToURI3(_NOWHERE, parameters, FLAGS | (libvirt.VIR_MIGRATE_NON_SHARED_DISK if copied else 0))
    except libvirt.libvirtError as error:
        return error
    return None


def _cured_by(domain: libvirt.virDomain, devices: Sequence[str]) -> tuple[str, ...]:
    """The fewest of the disks that have to be copied for libvirt to let the domain leave; none where no copy helps.

    A disk that lies on shared storage must not be copied: it is already where it would be copied to.
    """
    copied = tuple(devices)
    if not copied or not _may_leave(domain, copied):
        return ()
    for device in devices:
        without = tuple(one for one in copied if one != device)
        if without and _may_leave(domain, without):
            copied = without
    return copied


def _may_leave(domain: libvirt.virDomain, copied: Sequence[str]) -> bool:
    error = _answer(domain, copied)
    return error is not None and error.get_error_code() in _MAY_LEAVE


def _kind(error: libvirt.libvirtError) -> str:
    if error.get_error_code() == libvirt.VIR_ERR_MIGRATE_UNSAFE:
        return "storage"
    said = message(error).lower()
    return next((kind for word, kind in _KINDS if word in said), "setting")
