"""What stands against migrations, by what libvirt said of hosts and domains. Nothing is asked here."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar
from xml.etree import ElementTree as ET

from virtpoise_balancer.execute.facts import Bound, Hardware, HardwareVerdict, HostFacts, Needs
from virtpoise_balancer.model import Facts, Hold, Holder, Need, Requirement


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRecord:
    """What a host's libvirt reported at the last look.

    ``at``: when that was (Unix seconds). ``verdicts``: by the key of each kind of hardware that it was asked about.
    ``words``: by uuid of a domain whether it may leave, as ``Hosts.leaving`` has it.
    """

    at: float
    facts: HostFacts
    verdicts: Mapping[str, HardwareVerdict] = field(default_factory=dict)
    words: Mapping[str, Bound | None] = field(default_factory=dict)

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
    requires: dict[str, tuple[Requirement, ...]] = {}
    holds: dict[str, tuple[Hold, ...]] = {}
    of_kind: dict[object, list[Requirement]] = {}  # most domains need what others need
    for name, record in sorted(records.items(), key=lambda one: one[1].at):  # of a domain's two hosts the newer counts
        for domain in record.facts.domains:
            kind = _kind(domain, record.facts)
            if kind not in of_kind:
                of_kind[kind] = []
                for requirement, lacks in _requirements(domain, record.facts):
                    if requirement not in lackers:
                        lackers[requirement] = frozenset(host for host, there in records.items() if lacks(there))
                    if lackers[requirement]:
                        of_kind[kind].append(requirement)
            _put(requires, domain.uuid, tuple(one for one in of_kind[kind] if name not in lackers[one]))
            _put(holds, domain.uuid, tuple(map(_hold, record.bound(domain))))
    needed = {requirement for several in requires.values() for requirement in several}
    lacks_of: dict[str, list[Requirement]] = {}
    for requirement in sorted(needed, key=lambda one: (one.kind, one.name)):
        for host in lackers[requirement]:
            lacks_of.setdefault(host, []).append(requirement)
    return Facts(requires=requires, lacks={host: tuple(several) for host, several in lacks_of.items()}, holds=holds)


def _put(into: dict[str, tuple[_T, ...]], uuid: str, found: tuple[_T, ...]) -> None:
    if found:
        into[uuid] = found
    else:
        into.pop(uuid, None)


def _hold(one: Bound) -> Hold:
    return Hold(kind=Holder(one.kind), why=one.why)


def _kind(domain: Needs, here: HostFacts) -> object:
    """Equal for domains with the same requirements."""
    listed = here.devices or frozenset()
    return (
        domain.hardware,
        domain.networks,
        domain.filters,
        tuple(filter(listed.__contains__, domain.bridges)),
        tuple(filter(listed.__contains__, domain.devices)),
        domain.pools,
        domain.secrets,
        domain.cpus,
        domain.nodes,
    )


def _requirements(domain: Needs, here: HostFacts) -> Iterator[tuple[Requirement, _Lacks]]:
    if domain.hardware is not None:
        yield from _of_hardware(domain.hardware)
    for network in domain.networks:
        yield Requirement(kind=Need.NETWORK, name=f"network {network}"), partial(_lacks, "networks", network)
    for named in domain.filters:
        yield Requirement(kind=Need.NETWORK, name=f"network filter {named}"), partial(_lacks, "filters", named)
    for what, devices in (("bridge", domain.bridges), ("network device", domain.devices)):
        for device in devices:
            if here.devices and device in here.devices:
                yield Requirement(kind=Need.NETWORK, name=f"{what} {device}"), partial(_lacks, "devices", device)
    for pool in domain.pools:
        yield Requirement(kind=Need.STORAGE, name=f"storage pool {pool}"), partial(_lacks, "pools", pool)
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
