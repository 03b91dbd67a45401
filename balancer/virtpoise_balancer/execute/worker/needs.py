"""What a running domain needs of a host, and what keeps it where it is: read from its live description.

Nothing is asked, so that this is tested without libvirt. The conditions are those of libvirt itself
(``qemuMigrationSrcIsAllowed`` and ``qemuMigrationSrcIsSafe`` of its QEMU driver).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from xml.etree import ElementTree as ET

from virtpoise_balancer.execute.facts import LARGEST_BYTES, Bound, Cell, CopyableDisk, Hardware, Needs

# What of a CPU's definition decides where it fits. The rest (topology, caches, microcode) is the guest's own.
_OF_CPU = ("arch", "model", "vendor", "feature")
_MOST_CPUS = 8192
# libvirt writes KiB, whatever unit was defined.
_UNITS = {"b": 1, "bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
# A description of more characters is not parsed: a tree takes 50 times its text.
_MOST_DESCRIPTION = 2**20
_METADATA = re.compile(r"<metadata(?=[\s/>])[^>]*>")


def without_metadata(description: str) -> str:
    """The description without what others wrote into it: libvirt keeps there what cannot be parsed, and up to 4 MiB.

    It ends with the last such tag: one inside may be a text.
    """
    begin = _METADATA.search(description)
    if begin is None:
        return description
    last = description.rfind("</metadata>", begin.end())
    return description[: begin.start()] + description[begin.end() if last < 0 else last + len("</metadata>") :]


def needs(
    description: str,
    own_cpu: str | None = None,
    snapshots: int = 0,
    sizes: Callable[[str], tuple[int, int] | None] | None = None,
    defined: Callable[[], str] | None = None,
) -> Needs:
    """What the domain with this live description, XML, needs. ``own_cpu``: the host's own, as ``plain_cpu`` has it.

    ``sizes``: of a disk, by its device, what it may come to take and what it takes now, in bytes, or None where libvirt
    does not say; None: disks are not to be copied. ``defined``: its description as it was defined; called where the
    live one does not name a card's network. ParseError, ValueError.
    """
    root = parsed(description)
    disk_sources = root.findall("./devices/disk/source")
    # An attribute of the disk or of its source; libvirt may write both, since the first is the older way.
    secrets = [*root.findall("./devices/disk/auth/secret"), *root.findall("./devices/disk/source/auth/secret")]
    sources = root.findall("./devices/interface/source")
    return Needs(
        name=root.findtext("name") or "?",
        uuid=root.findtext("uuid") or "",
        hardware=_hardware(root, own_cpu),
        unlocked=() if root.find("./devices/lease") is not None else tuple(_unlocked(root)),
        disks=tuple(path for source in disk_sources if (path := source.get("file") or source.get("dev")) is not None),
        pools=tuple(sorted({pool for source in disk_sources if (pool := source.get("pool"))})),
        images=tuple(_images(root)),
        copyable=() if sizes is None else tuple(_copyable(root, sizes)),
        secrets=tuple(sorted({name for secret in secrets if (name := secret.get("uuid") or secret.get("usage"))})),
        networks=tuple(
            sorted([name for source in sources if (name := source.get("network"))] + _pooled(root, defined))
        ),
        bridges=tuple(
            sorted({name for source in sources if not source.get("network") and (name := source.get("bridge"))})
        ),
        devices=tuple(
            sorted(
                {
                    name
                    for card in root.findall("./devices/interface[@type='direct']/source")
                    if not card.get("network") and (name := card.get("dev"))
                }
            )
        ),
        filters=tuple(sorted({n for one in root.findall("./devices/interface/filterref") if (n := one.get("filter"))})),
        cpus=tuple(sorted(_pins(root))),
        nodes=tuple(sorted(_nodes(root))),
        cells=tuple(_cells(root)),
        bound=tuple(_bound(root, snapshots)),
    )


def parsed(description: str) -> ET.Element:
    """The root of what libvirt writes of anything, without metadata. ParseError, also where it is too large."""
    description = without_metadata(description)
    if len(description) > _MOST_DESCRIPTION:
        raise ET.ParseError(f"it has more than {_MOST_DESCRIPTION} characters")
    return ET.fromstring(description)  # noqa: S314 - from the host's own libvirt


def _pooled(root: ET.Element, defined: Callable[[], str] | None) -> list[str]:
    """The networks from which its passed-through cards that are unplugged for a migration came.

    The live description has the device in the network's place (``virDomainNetDefFormat``).
    """
    cards = [
        card.find("mac")
        for card in root.findall("./devices/interface[@type='hostdev']")
        if _unplugged(card) and card.find("source[@network]") is None
    ]
    addresses = {mac.get("address") for mac in cards if mac is not None}
    if not addresses or defined is None:
        return []
    return [
        network
        for card in parsed(defined()).findall("./devices/interface[@type='network']")
        if (mac := card.find("mac")) is not None
        and mac.get("address") in addresses
        and (source := card.find("source")) is not None
        and (network := source.get("network"))
    ]


def plain_cpu(cpu: ET.Element | None) -> str | None:
    """The definition with only what decides where it fits, XML; None without one."""
    if cpu is None or cpu.find("model") is None:
        return None
    plain = ET.Element("cpu", {name: value for name, value in cpu.items() if name in ("mode", "match")})
    for one in cpu:
        if one.tag in _OF_CPU:
            kept = ET.SubElement(plain, one.tag, dict(one.items()))
            kept.text = (one.text or "").strip() or None
    return ET.tostring(plain, encoding="unicode")


def _hardware(root: ET.Element, own_cpu: str | None) -> Hardware | None:
    kind = root.find("./os/type")
    if kind is None:
        return None
    cpu = root.find("cpu")
    own = cpu is not None and cpu.get("mode") == "host-passthrough"
    return Hardware(
        type=root.get("type", ""),
        arch=kind.get("arch", ""),
        machine=kind.get("machine", ""),
        emulator=root.findtext("./devices/emulator") or "",
        cpu=own_cpu if own else plain_cpu(cpu),
        own_cpu=own,
    )


def _images(root: ET.Element) -> Iterator[str]:
    """The files, devices and volumes without which the domain does not start; that of a CD drive may be optional."""
    for source in root.findall("./devices/disk/source"):
        path, pool, volume = source.get("file") or source.get("dev"), source.get("pool"), source.get("volume")
        if source.get("startupPolicy", "mandatory") != "mandatory":
            continue
        if pool and volume:
            yield f"{pool}/{volume}"
        elif path is not None and path.startswith("/"):
            yield path


def _whole_disks(root: ET.Element) -> Iterator[ET.Element]:
    """The disks that can be copied: the domain alone writes to them, and they are whole images by themselves."""
    for disk in root.findall("./devices/disk"):
        source, chain = disk.find("source"), disk.find("backingStore")
        whole = chain is None or chain.get("type") is None
        special = ("readonly", "shareable", "transient", "mirror", "encryption", "source/encryption", "source/slices")
        if (
            source is not None
            and whole
            and disk.get("device", "disk") == "disk"
            and disk.get("type") in ("file", "block")
            and not any(disk.find(name) is not None for name in special)
        ):
            yield disk


def _copyable(root: ET.Element, sizes: Callable[[str], tuple[int, int] | None]) -> Iterator[CopyableDisk]:
    for disk in _whole_disks(root):
        source, driver, device = disk.find("source"), disk.find("driver"), _target(disk)
        path = None if source is None else source.get("file") or source.get("dev")
        if path is not None and (size := sizes(device)) is not None:
            capacity, stored = size
            kind = "raw" if driver is None else driver.get("type", "raw")
            yield CopyableDisk(device=device, path=path, format=kind, capacity_bytes=capacity, stored_bytes=stored)


def _unlocked(root: ET.Element) -> Iterator[str]:
    """The disks that QEMU does not lock. It locks image files, unless other domains are to write to them as well."""
    for disk in root.findall("./devices/disk"):
        written = disk.get("device", "disk") in ("disk", "lun") and disk.find("readonly") is None
        if written and (disk.get("type") != "file" or disk.find("shareable") is not None):
            yield _target(disk)


def _target(disk: ET.Element) -> str:
    return target.get("dev", "?") if (target := disk.find("target")) is not None else "?"


def _pins(root: ET.Element) -> set[int]:
    """The CPUs that its vCPUs, QEMU's own threads and its process are bound to by its definition."""
    sets = [one.get("cpuset") for path in ("vcpupin", "emulatorpin", "iothreadpin") for one in root.iter(path)]
    vcpu = root.find("vcpu")
    if vcpu is not None and vcpu.get("placement", "static") == "static":
        sets.append(vcpu.get("cpuset"))
    return {number for one in sets if one for number in numbers(one)}


def _nodes(root: ET.Element) -> set[int]:
    """The NUMA nodes that its memory must come from."""
    return {number for one in root.findall("./numatune/*") for number in _nodes_of(one)}


def _nodes_of(tune: ET.Element) -> set[int]:
    return numbers(tune.get("nodeset", "")) if tune.get("mode", "strict") in ("strict", "restrictive") else set()


def _cells(root: ET.Element) -> Iterator[Cell]:
    """The guest's NUMA nodes with the host's that their memory must come from; none where all are bound alike."""
    bound = {one.get("cellid"): one for one in root.findall("./numatune/memnode")}
    cells = root.findall("./cpu/numa/cell") if bound else []
    for cell in cells:
        tune = bound.get(cell.get("id"), root.find("./numatune/memory"))
        size, unit = int(cell.get("memory", "0")), cell.get("unit", "KiB")
        if unit not in _UNITS or not 0 <= size * _UNITS[unit] <= LARGEST_BYTES:
            raise ValueError("memory that no domain has")
        yield Cell(memory_bytes=size * _UNITS[unit], nodes=() if tune is None else tuple(sorted(_nodes_of(tune))))


def numbers(text: str) -> set[int]:
    """The numbers of a set as libvirt writes it: "0-3,^2,8". Empty where it is none."""
    found: set[int] = set()
    try:
        for part in text.replace(" ", "").split(","):
            if part.startswith("^"):
                found.discard(int(part[1:]))
            else:
                first, _, last = part.partition("-")
                found |= set(range(int(first), min(int(last or first), _MOST_CPUS) + 1))
    except ValueError:
        return set()
    return found


def _bound(root: ET.Element, snapshots: int) -> Iterator[Bound]:
    if snapshots:
        yield Bound(kind="snapshots", why=f"it has {snapshots} snapshot{'' if snapshots == 1 else 's'}")
    for disk in root.findall("./devices/disk"):
        if disk.find("mirror") is not None:
            yield Bound(kind="job", why=f"its disk {_target(disk)} is being copied")
        if disk.find("transient") is not None:
            yield Bound(kind="storage", why=f"its disk {_target(disk)} is transient")
        if disk.get("type") == "nvme":
            yield Bound(kind="storage", why=f"its disk {_target(disk)} is an NVMe device of the host")
    for device in root.findall("./devices/hostdev"):
        kind = device.get("type") or "capabilities"
        if kind != "usb" and not _unplugged(device):
            yield Bound(kind="device", why=f"a device of its host is passed through to it (hostdev, {kind})")
    for card in root.findall("./devices/interface"):
        if card.get("type") in ("hostdev", "vdpa") and not _unplugged(card):
            yield Bound(kind="device", why=f"a device of its host is its network card (interface, {card.get('type')})")
    for shared in root.findall("./devices/shmem"):
        if shared.get("role") != "master":
            yield Bound(kind="device", why="it shares memory with other domains (shmem)")
    for folder in root.findall("./devices/filesystem/driver[@type='virtiofs']"):
        yield Bound(kind="device", why=f"it has a folder of its host ({folder.get('type')})")
    steady = root.find("./cpu/feature[@name='invtsc'][@policy='require']") is not None
    if steady and not any(one.get("frequency") for one in root.findall("./clock/timer[@name='tsc']")):
        yield Bound(kind="setting", why="its CPU has invtsc, and its clock has no frequency of the TSC")


def _unplugged(device: ET.Element) -> bool:
    """Whether QEMU unplugs it for a migration, since another card takes its part."""
    return device.find("./teaming[@type='transient']") is not None


def cards_free(network: str) -> int | None:
    """How many network cards an active libvirt network with this description, XML, still has to give away; None where
    it does not give a domain a card of the host to have alone, or does not list its cards.
    """
    root = parsed(network)
    forward = root.find("forward")
    if forward is None or forward.get("mode") not in ("hostdev", "passthrough"):
        return None
    cards = len(forward.findall("address")) + len(forward.findall("interface"))
    return max(cards - int(root.get("connections", "0")), 0) if cards else None
