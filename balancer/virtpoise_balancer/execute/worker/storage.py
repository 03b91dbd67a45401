"""Storage pools, the volumes in them, and those that a migration copies disks into."""

from __future__ import annotations

import contextlib
import math
import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree as ET

import libvirt

from virtpoise_balancer.execute.facts import LARGEST_BYTES, Pool
from virtpoise_balancer.execute.worker.connection import UNREADABLE, message, text_of
from virtpoise_balancer.execute.worker.needs import parsed

# Pools that list all that their folder holds, so that what they do not list is not there.
_WHOLE_FOLDERS = ("dir", "fs", "netfs", "logical", "zfs", "vstorage")
# In these a volume may take less than its capacity until it is written to.
_SPARSE = ("dir", "fs", "netfs", "vstorage")
# libvirt reads the head of each image when it refreshes a pool. A pool with more volumes is not refreshed.
_MOST_VOLUMES = 500
# More than the head of an image that nothing was written to, of any format.
_MOST_EMPTY_BYTES = 1 << 20


class StorageError(Exception):
    """A refusal of what was asked for. The message is one line."""


def pools(connection: libvirt.virConnect, *, free: bool) -> dict[str, Pool] | None:
    """The active pools by name; None where libvirt does not list them now. ``free``: with what is free in them."""
    try:
        return {text_of(one.name): pool for one, pool in _described(connection, free=free)}
    except libvirt.libvirtError as error:
        return {} if error.get_error_code() == libvirt.VIR_ERR_NO_SUPPORT else None


def present(connection: libvirt.virConnect, images: Sequence[str]) -> dict[str, bool]:
    """Whether this host has each of these, by its pools. An image is a path, or a volume as "POOL/VOLUME".

    What no pool can answer for is left out. A pool that does not list an image is refreshed before it is believed,
    since libvirt does not see what others put into it.
    """
    by_folder, by_name = _by_folder(connection), {text_of(one.name): one for one in _active(connection)}
    found: dict[str, bool] = {}
    refreshed: set[str] = set()
    for image in images:
        folder, name = posixpath.split(image)
        pool = by_folder.get(folder) if image.startswith("/") else by_name.get(folder)
        if pool is None or name.startswith("."):  # libvirt lists no hidden files
            continue
        try:
            there = _has(pool, image, name)
            if not there and folder not in refreshed and pool.numOfVolumes() <= _MOST_VOLUMES:
                pool.refresh(0)
                refreshed.add(folder)
                there = _has(pool, image, name)
            if there or folder in refreshed:
                found[image] = there
        except (libvirt.libvirtError, *UNREADABLE):  # of a file in the pool whose name is not UTF-8, too
            continue
    return found


def make_room(connection: libvirt.virConnect, disks: Sequence[Mapping[str, Any]]) -> list[str] | str:
    """Create an empty volume for each disk, and return their paths; or why there is none, and then none is created.

    ``disks``: the fields of a DiskCopy. There is no room without a pool for one of them or without space in it, and
    above all where its path is taken: nothing that is there is ever written to. libvirtError where the connection
    breaks, so that nobody knows what was created.
    """
    created: list[str] = []
    by_folder = _by_folder(connection)
    try:
        for disk in disks:
            created.append(_create(by_folder, disk))  # noqa: PERF401 - an error must leave what was created in it
    except (StorageError, libvirt.libvirtError, *UNREADABLE) as error:
        _delete(connection, created)
        connection.getLibVersion()  # it answers still, so the error was its own
        return message(error) if isinstance(error, libvirt.libvirtError) else str(error)
    return created


def discard(
    connection: libvirt.virConnect,
    uuid: str,
    paths: Sequence[str],
    changed_before: float | None = None,
    only_empty: bool = False,
) -> None:
    """Delete the volumes at these paths, which were created for a migration of the domain that has failed.

    ``changed_before``: none of them may have changed since (Unix seconds), or it is another one by now. ``only_empty``:
    they may be others', so that one in which there is something stays.

    StorageError where the domain is active here, where any domain has one of them as a disk, and for what has changed.
    """
    volumes = [one for path in paths if (one := _volume_at(connection, path)) is not None]
    if only_empty:
        volumes = [one for one in volumes if one.info()[2] <= _MOST_EMPTY_BYTES]
    if not volumes:
        return
    named = {("", path) for path in paths} | {
        (text_of(one.storagePoolLookupByVolume().name), text_of(one.name)) for one in volumes
    }
    for domain in connection.listAllDomains():
        if domain.UUIDString() == uuid and domain.isActive():
            raise StorageError(f"{text_of(domain.name)} is active here")
        if not named.isdisjoint(_disks(text_of(domain.XMLDesc))):
            raise StorageError(f"{text_of(domain.name)} has one of the volumes as a disk")
    if changed_before is not None:
        for volume in volumes:
            if not _changed_at(volume) < changed_before:
                raise StorageError(f"{text_of(volume.path)} has changed since")
    for volume in volumes:
        volume.delete(0)


def _create(by_folder: Mapping[str, libvirt.virStoragePool], disk: Mapping[str, Any]) -> str:
    folder, name = posixpath.split(disk["path"])
    capacity = int(disk["capacity_bytes"])
    pool = by_folder.get(folder)
    if pool is None:
        raise StorageError(f"no storage pool is at {folder}")
    free = _free(pool)
    if free < capacity:
        besides = "bytes free besides what its volumes may still take"
        raise StorageError(f"the storage pool at {folder} has {free} {besides}, and {disk['path']} may take {capacity}")
    volume = ET.Element("volume")
    ET.SubElement(volume, "name").text = name
    ET.SubElement(volume, "capacity", unit="bytes").text = str(capacity)
    if parsed(text_of(pool.XMLDesc)).get("type") in _SPARSE:
        ET.SubElement(volume, "allocation", unit="bytes").text = "0"
    ET.SubElement(ET.SubElement(volume, "target"), "format", type=disk["format"])
    # libvirt creates no volume where one is, or a file that it has not seen yet.
    made = pool.createXML(ET.tostring(volume, encoding="unicode"), 0)
    return text_of(made.path)


def _delete(connection: libvirt.virConnect, paths: Iterable[str]) -> None:
    for path in paths:
        if (volume := _volume_at(connection, path)) is not None:
            volume.delete(0)


def _volume_at(connection: libvirt.virConnect, path: str) -> libvirt.virStorageVol | None:
    try:
        return connection.storageVolLookupByPath(path)
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_STORAGE_VOL:
            raise
        return None


def _disks(description: str) -> Iterator[tuple[str, str]]:
    """What a domain's disks are on, backing images included: a path with an empty pool, or a volume with its pool."""
    for source in parsed(description).iter("source"):
        yield "", source.get("file") or source.get("dev") or ""
        yield source.get("pool", ""), source.get("volume", "")


def _changed_at(volume: libvirt.virStorageVol) -> float:
    """When the volume has last changed (Unix seconds, by its host's clock); infinite where libvirt does not say."""
    changed = parsed(text_of(volume.XMLDesc)).findtext("./target/timestamps/ctime")
    return float(changed) if changed else math.inf


def _active(connection: libvirt.virConnect) -> Iterator[libvirt.virStoragePool]:
    yield from connection.listAllStoragePools(libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE)


def _by_folder(connection: libvirt.virConnect) -> dict[str, libvirt.virStoragePool]:
    """The pools that hold all of a folder, by its path."""
    return {
        pool.target: one
        for one, pool in _described(connection, free=False)
        if pool.target is not None and pool.type in _WHOLE_FOLDERS
    }


def _described(connection: libvirt.virConnect, *, free: bool) -> Iterator[tuple[libvirt.virStoragePool, Pool]]:
    """The active pools. Of one whose description cannot be had or read only the name is known."""
    for one in _active(connection):
        pool = Pool(type="")
        with contextlib.suppress(libvirt.libvirtError, ET.ParseError, ValueError, *UNREADABLE):
            pool = _pool(one)
            if free:
                pool = replace(pool, free_bytes=_free(one))
        yield one, pool


def _has(pool: libvirt.virStoragePool, image: str, name: str) -> bool:
    try:
        volume = pool.storageVolLookupByName(name)
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_STORAGE_VOL:
            raise
        return False
    return not image.startswith("/") or text_of(volume.path) == image


def _pool(one: libvirt.virStoragePool) -> Pool:
    described = parsed(text_of(one.XMLDesc))
    target = described.findtext("./target/path")
    return Pool(
        type=described.get("type", ""),
        target=None if target is None else posixpath.normpath(target),
        source=source_of(described),
    )


def _free(pool: libvirt.virStoragePool) -> int:
    """What a pool has free, in bytes, without what its sparse volumes may come to take.

    Those of a pool with too many volumes are not added up.
    """
    free = min(int(pool.info()[3]), LARGEST_BYTES)
    if pool.numOfVolumes() <= _MOST_VOLUMES:
        for volume in pool.listAllVolumes(0):
            with contextlib.suppress(libvirt.libvirtError, *UNREADABLE):  # it may be gone by now
                _, capacity, allocation = volume.info()
                free -= max(capacity - allocation, 0)
    return max(free, 0)


def source_of(described: ET.Element) -> str | None:
    """What distinguishes a pool's storage from that of others of its type, by its description; None: nothing does."""
    kind, source = described.get("type"), described.find("source")
    if source is None:
        return None
    name, folder = source.findtext("name"), source.find("dir")
    path = "" if folder is None else folder.get("path", "")
    if kind == "netfs":
        server = host.get("name", "") if (host := source.find("host")) is not None else ""
        return f"{server}:{path}"
    if kind in ("logical", "rbd", "zfs", "vstorage", "sheepdog", "gluster"):
        return f"{name}{path if kind == 'gluster' else ''}" if name else None
    if kind in ("iscsi", "iscsi-direct"):
        return device.get("path") if (device := source.find("device")) is not None else None
    return None
