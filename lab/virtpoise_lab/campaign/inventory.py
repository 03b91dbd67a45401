"""What the model's libvirt daemons report of themselves and their domains, true or not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from virtpoise_balancer.execute.facts import Bound, CopyableDisk, Hardware, HostFacts, Needs, Pool
from virtpoise_lab.campaign.world import ACTIVE, World, disk_of

_GIB = 1 << 30
_NETWORK = "default"
_HARDWARE = Hardware(type="kvm", arch="x86_64", machine="q35", emulator="/usr/bin/qemu-system-x86_64")


def facts_of(world: World, host: str) -> HostFacts:
    """The facts of a host, as they are, or as a fault has it."""
    machine = world.machines[host]
    if machine.old_facts is not None:
        return machine.old_facts
    return HostFacts(
        libvirt_version=9_000_000,
        hypervisor_version=7_002_000,
        cpu=None,
        devices=frozenset({"br0"}),
        networks=frozenset() if machine.lacks_network else frozenset({_NETWORK}),
        pools={"images": Pool(target="/images", free_bytes=0 if machine.full else 100 * _GIB)},
        domains=tuple(_needs(world, uuid) for uuid, copy in sorted(machine.copies.items()) if copy.state in ACTIVE),
    )


def _needs(world: World, uuid: str) -> Needs:
    path = disk_of(uuid)
    disk = CopyableDisk(device="vda", path=path, format="raw", capacity_bytes=_GIB, stored_bytes=_GIB // 8)
    return Needs(
        name=world.guests[uuid].name,
        uuid=uuid,
        hardware=_HARDWARE,
        disks=(path,),
        images=(path,) if world.local_disks else (),
        copyable=(disk,) if world.local_disks else (),
        networks=(_NETWORK,),
    )


def words_on(world: World, host: str, uuids: Iterable[str]) -> Mapping[str, Bound | None]:
    """By uuid, why libvirt would not let the domain leave the host, or None."""
    machine, words = world.machines[host], dict[str, Bound | None]()
    for uuid in uuids:
        if uuid not in machine.copies:
            continue
        words[uuid] = None
        if world.local_disks:
            why = "Unsafe migration: migration without shared storage is unsafe"
            words[uuid] = Bound(kind="storage", why=why, cured_by=("vda",))
        if uuid in machine.backups or any(job.source == host for job in world.running_jobs(uuid)):
            words[uuid] = Bound(kind="job", why="another job works on it")
    return words


def images_on(world: World, host: str, images: Sequence[str]) -> Mapping[str, bool]:
    machine = world.machines[host]
    there = machine.images if machine.old_images is None else machine.old_images
    return {image: image in there for image in images}
