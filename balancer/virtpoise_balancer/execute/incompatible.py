"""What stands against migrations, by what libvirt said of hosts and domains. Nothing is asked here."""

from __future__ import annotations

import math
import posixpath
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar
from xml.etree import ElementTree as ET

from virtpoise_balancer.execute.facts import Bound, Hardware, HardwareVerdict, HostFacts, Needs, Pool
from virtpoise_balancer.model import DiskCopy, Facts, Hold, Holder, MemoryCell, Need, Requirement


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRecord:
    """What a host's libvirt reported at the last look.

    ``at``: when that was (Unix seconds). ``verdicts``: by the key of each kind of hardware that it was asked about.
    ``words``: by uuid of a domain whether it may leave, as ``Hosts.leaving`` has it. ``images``: whether it has those
    images of other hosts' domains that it was asked about, as ``Hosts.present`` has it.
    """

    at: float
    facts: HostFacts
    verdicts: Mapping[str, HardwareVerdict] = field(default_factory=dict)
    words: Mapping[str, Bound | None] = field(default_factory=dict)
    images: Mapping[str, bool] = field(default_factory=dict)

    @property
    def is_busy(self) -> bool:
        """Whether a job holds a domain of the host: a short while later it may not."""
        return any(one.kind == Holder.JOB for domain in self.facts.domains for one in self.bound(domain))

    def bound(self, domain: Needs) -> tuple[Bound, ...]:
        """What keeps a domain of the host where it is: as libvirt reports it, else by its description."""
        if domain.unread or domain.uuid not in self.words:
            return domain.bound
        word = self.words[domain.uuid]
        return () if word is None else (word,)


_GIB = 1 << 30
# How what a copied disk needs begins. The host that the domain leaves may well lack it.
_PLACE = "a place for a copy"

_T = TypeVar("_T")
# Whether a host lacks something; None where that is not known.
_Lacks = Callable[[HostRecord], bool | None]


def kinds_of(hosts: Iterable[HostFacts]) -> dict[str, Hardware]:
    """The kinds of hardware that the hosts' domains have, by their keys."""
    every = (domain.hardware for facts in hosts for domain in facts.domains)
    return {kind.key: kind for kind in every if kind is not None}


def judge(records: Mapping[str, HostRecord]) -> Facts:
    """What stands against migrations. ``records``: by host; one that is missing stands against none.

    Where the host of a domain seems to lack itself what the domain needs, the question is the wrong one, and its answer
    says nothing of that domain.
    """
    lackers: dict[Requirement, frozenset[str]] = {}
    copies: dict[str, tuple[DiskCopy, ...]] = {}
    nodes: dict[str, tuple[int, ...]] = {}
    cells: dict[str, tuple[MemoryCell, ...]] = {}
    cards: dict[str, dict[str, int]] = {}
    given = {network for record in records.values() for network in record.facts.cards_free}
    asked = _Asked.of(records)
    requires: dict[str, tuple[Requirement, ...]] = {}
    holds: dict[str, tuple[Hold, ...]] = {}
    of_kind: dict[object, list[Requirement]] = {}  # most domains need what others need
    for name, record in sorted(records.items(), key=lambda one: one[1].at):  # of a domain's two hosts the newer counts
        for domain in record.facts.domains:
            copied = _copies(domain, record, asked)
            kind = _kind(domain, record.facts, copied, asked)
            if kind not in of_kind:
                of_kind[kind] = []
                for requirement, lacks in _requirements(domain, record.facts, copied, asked):
                    if requirement not in lackers:
                        lackers[requirement] = lacks if isinstance(lacks, frozenset) else _all_that(lacks, records)
                    if lackers[requirement]:
                        of_kind[kind].append(requirement)
            fitting = (one for one in of_kind[kind] if name not in lackers[one] or one.name.startswith(_PLACE))
            _put(requires, domain.uuid, tuple(fitting))
            _put(holds, domain.uuid, () if copied else tuple(map(_hold, record.bound(domain))))
            _put(copies, domain.uuid, copied)
            _put(nodes, domain.uuid, domain.nodes)
            _put(cells, domain.uuid, tuple(_memory_cells(domain)))
            cards[domain.uuid] = {network: domain.networks.count(network) for network in given & {*domain.networks}}
    needed = {requirement for several in requires.values() for requirement in several}
    lacks_of: dict[str, list[Requirement]] = {}
    for requirement in sorted(needed, key=lambda one: (one.kind, one.name)):
        for host in lackers[requirement]:
            lacks_of.setdefault(host, []).append(requirement)
    lacks_in_order = {host: tuple(several) for host, several in lacks_of.items()}
    room = _room({one.folder for several in copies.values() for one in several}, records)
    return Facts(
        requires=requires,
        lacks=lacks_in_order,
        holds=holds,
        copies=copies,
        nodes=nodes,
        cells=cells,
        room=room,
        cards={uuid: of_domain for uuid, of_domain in cards.items() if of_domain},
        cards_free={host: record.facts.cards_free for host, record in records.items() if record.facts.cards_free},
    )


def _memory_cells(domain: Needs) -> Iterator[MemoryCell]:
    whole = sum(cell.memory_bytes for cell in domain.cells)
    for cell in domain.cells if whole else ():
        yield MemoryCell(share=cell.memory_bytes / whole, nodes=cell.nodes)


def _room(folders: Collection[str], records: Mapping[str, HostRecord]) -> dict[str, dict[str, int]]:
    """By host, what its storage pools at these folders have free, in bytes, as far as that is known."""
    found: dict[str, dict[str, int]] = {}
    for host, record in records.items() if folders else ():
        for pool in (record.facts.pools or {}).values():
            if pool.target is not None and pool.target in folders and pool.free_bytes is not None:
                found.setdefault(host, {})[pool.target] = pool.free_bytes
    return found


def _put(into: dict[str, tuple[_T, ...]], uuid: str, found: tuple[_T, ...]) -> None:
    if found:
        into[uuid] = found
    else:
        into.pop(uuid, None)


def _hold(one: Bound) -> Hold:
    return Hold(kind=Holder(one.kind), why=one.why)


@dataclass(frozen=True, slots=True)
class _Asked:
    """What hosts have said of other hosts' images: by image, the hosts that lack it, and those that have it."""

    missing: Mapping[str, frozenset[str]]
    present: Mapping[str, frozenset[str]]

    @classmethod
    def of(cls, records: Mapping[str, HostRecord]) -> _Asked:
        hosts: dict[bool, dict[str, set[str]]] = {False: {}, True: {}}
        for host, record in records.items():
            for image, there in record.images.items():
                hosts[there].setdefault(image, set()).add(host)
        return cls(*({image: frozenset(names) for image, names in found.items()} for found in hosts.values()))


def _all_that(lacks: _Lacks, records: Mapping[str, HostRecord]) -> frozenset[str]:
    return frozenset(host for host, there in records.items() if lacks(there))


def _copies(domain: Needs, record: HostRecord, asked: _Asked) -> tuple[DiskCopy, ...]:
    """The disks that have to be copied for libvirt to migrate the domain: those that no host but its own has.

    Empty where none has to be or may be, and where something else holds it.
    """
    if not domain.copyable:
        return ()
    bound = record.bound(domain)
    wanted = {device for one in bound for device in one.cured_by}
    lost = {one.device for one in domain.copyable if one.path in asked.missing and one.path not in asked.present}
    copied = [one for one in domain.copyable if one.device in wanted | lost]
    if not all(one.cured_by for one in bound) or not wanted <= {one.device for one in copied}:
        return ()
    return tuple(
        DiskCopy(
            device=one.device,
            path=one.path,
            format=one.format,
            capacity_bytes=one.capacity_bytes,
            stored_bytes=one.stored_bytes,
        )
        for one in copied
    )


def _kind(domain: Needs, here: HostFacts, copied: tuple[DiskCopy, ...], asked: _Asked) -> object:
    """Equal for domains with the same requirements."""
    listed = here.devices or frozenset()
    return (
        domain.hardware,
        domain.networks,
        domain.filters,
        tuple(filter(listed.__contains__, domain.bridges)),
        tuple(filter(listed.__contains__, domain.devices)),
        tuple(_pools(domain, here)),
        tuple(_missing(domain, copied, asked)) if asked.missing else (),
        (*_places(copied), *_taken(copied, asked)) if copied else (),
        domain.secrets,
        domain.cpus,
        domain.nodes,
    )


def _requirements(
    domain: Needs, here: HostFacts, copied: tuple[DiskCopy, ...], asked: _Asked
) -> Iterator[tuple[Requirement, _Lacks | frozenset[str]]]:
    if domain.hardware is not None:
        yield from _of_hardware(domain.hardware)
    for network in sorted({*domain.networks}):
        yield Requirement(kind=Need.NETWORK, name=f"network {network}"), partial(_lacks, "networks", network)
    for named in domain.filters:
        yield Requirement(kind=Need.NETWORK, name=f"network filter {named}"), partial(_lacks, "filters", named)
    for what, devices in (("bridge", domain.bridges), ("network device", domain.devices)):
        for device in devices:
            if here.devices and device in here.devices:
                yield Requirement(kind=Need.NETWORK, name=f"{what} {device}"), partial(_lacks, "devices", device)
    for name, pool in _pools(domain, here):
        named = f"storage pool {name}{f' on {pool.source}' if pool.source else ''}"
        lacks = partial(_lacks_pool, name, pool, by_name=name in domain.pools)
        yield Requirement(kind=Need.STORAGE, name=named), lacks
    for image in _missing(domain, copied, asked):
        what = "" if image.startswith("/") else "volume "
        yield Requirement(kind=Need.STORAGE, name=f"{what}{image} of a disk"), asked.missing[image]
    for folder, tenths in _places(copied):
        place = f"{_PLACE} in a storage pool at {folder} with {tenths / 10:g} GiB free"
        yield Requirement(kind=Need.STORAGE, name=place), partial(_lacks_place, folder, tenths * _GIB // 10)
    for path in _taken(copied, asked):
        place = f"{_PLACE} at {path}, where nothing is yet"
        yield Requirement(kind=Need.STORAGE, name=place), asked.present[path]
    for secret in domain.secrets:
        yield Requirement(kind=Need.STORAGE, name=f"secret {secret} of a disk"), partial(_lacks, "secrets", secret)
    for what, numbers, of_host in (("CPU", domain.cpus, "cpus"), ("NUMA node", domain.nodes, "nodes")):
        if numbers:
            name = f"{what}{'' if len(numbers) == 1 else 's'} {ranges(numbers)}"
            yield Requirement(kind=Need.PINS, name=name), partial(_lacks_one, of_host, frozenset(numbers))


def _of_hardware(kind: Hardware) -> Iterator[tuple[Requirement, _Lacks]]:
    machine = f"machine type {kind.machine} ({kind.type}, {kind.emulator})"
    yield Requirement(kind=Need.MACHINE, name=machine), partial(_refuses, "machine", kind.key)
    if kind.cpu is not None:
        yield Requirement(kind=Need.CPU, name=_cpu_name(kind)), partial(_refuses, "cpu", kind.key)


def _lacks(what: str, name: str, there: HostRecord) -> bool | None:
    listed: Collection[str] | None = getattr(there.facts, what)
    return None if listed is None else name not in listed


def _pools(domain: Needs, here: HostFacts) -> Iterator[tuple[str, Pool]]:
    """The pools that the domain's disks lie in, by name. By its path a disk lies in the pool of its folder; that counts
    where it is known what the pool stands on.
    """
    pools = here.pools or {}
    known = [name for name, pool in pools.items() if pool.source is not None]
    folders = {posixpath.dirname(path) for path in domain.disks} if known else ()
    names = {*domain.pools, *(name for name in known if pools[name].target in folders)}
    for name in sorted(names):
        yield name, pools.get(name, Pool())


def _missing(domain: Needs, copied: tuple[DiskCopy, ...], asked: _Asked) -> Iterator[str]:
    """Its images that some host lacks, without those that are copied."""
    paths = {one.path for one in copied}
    yield from (image for image in domain.images if image in asked.missing and image not in paths)


def _places(copied: tuple[DiskCopy, ...]) -> Iterator[tuple[str, int]]:
    """What the copies may come to take, by the folder, in tenths of a GiB."""
    bytes_of: dict[str, int] = {}
    for one in copied:
        bytes_of[one.folder] = bytes_of.get(one.folder, 0) + one.capacity_bytes
    yield from ((folder, math.ceil(10 * needed / _GIB)) for folder, needed in sorted(bytes_of.items()))


def _taken(copied: tuple[DiskCopy, ...], asked: _Asked) -> Iterator[str]:
    """The paths of copies where some host has something already."""
    yield from (one.path for one in copied if one.path in asked.present)


def _lacks_pool(name: str, here: Pool, there: HostRecord, *, by_name: bool) -> bool | None:
    """Whether the host has such a pool on other storage, or none. ``by_name``: libvirt needs one."""
    pools = there.facts.pools
    if pools is None:
        return None
    other = pools.get(name)
    if other is None and not by_name:
        other = next((one for one in pools.values() if one.target == here.target), None)
    return by_name or None if other is None else here.differs(other)


def _lacks_place(folder: str, needed: int, there: HostRecord) -> bool | None:
    if there.facts.pools is None:
        return None
    pool = next((one for one in there.facts.pools.values() if one.target == folder), None)
    if pool is None:
        return None if any(not one.type for one in there.facts.pools.values()) else True
    return None if pool.free_bytes is None else pool.free_bytes < needed


def _lacks_one(what: str, numbers: frozenset[int], there: HostRecord) -> bool | None:
    listed: frozenset[int] | None = getattr(there.facts, what)
    return None if listed is None else not numbers <= listed


def _refuses(what: str, key: str, there: HostRecord) -> bool | None:
    verdict = there.verdicts.get(key)
    answer: bool | None = None if verdict is None else getattr(verdict, what)
    return None if answer is None else not answer


def _cpu_name(kind: Hardware) -> str:
    """The CPU in words. The key makes the name that of no other CPU."""
    cpu = ET.fromstring(kind.cpu or "<cpu/>")  # noqa: S314 - made by the worker
    features = len(cpu.findall("feature"))
    own = "the CPU of its host" if kind.own_cpu else "CPU"
    with_features = f" with {features} feature{'' if features == 1 else 's'}" if features else ""
    return f"{own} {cpu.findtext('model')}{with_features} ({kind.key[:6]})"


def ranges(numbers: Collection[int]) -> str:
    """The numbers as libvirt writes a set: "0-3,8"."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in found)
