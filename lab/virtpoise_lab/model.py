"""What a lab is made of, as values: hosts, domains and the load they make."""

import re
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Literal
from uuid import UUID, uuid5

from virtpoise_lab.errors import LabError

Kind = Literal["share", "work"]

NETWORK = "10.77.0"
MANAGER_ADDRESS = f"{NETWORK}.254"
LIBVIRT_PORT = 16509
_NAMES = UUID("6f0c1b0e-2f0a-4c57-9a5e-5d6c6e2f7a10")


@dataclass(frozen=True, slots=True)
class Load:
    """The load that a guest makes.

    cpu: percent of one CPU of a host, in all (up to 100 for each vCPU). kind: "share" spends that part of each 200 ms
    of wall time computing, at moments of its own, and does not catch up on what it could not run; "work" owes that
    amount and catches up, up to 5 s of it.
    dirty: MB (10^6 bytes) of memory written per second. traffic: MB sent per second. The CPU time that dirtying and
    sending take inside the guest is part of ``cpu``, not on top of it.
    """

    cpu: float = 0.0
    kind: Kind = "share"
    dirty: float = 0.0
    traffic: float = 0.0

    def changed(
        self,
        cpu: float | None = None,
        kind: Kind | None = None,
        dirty: float | None = None,
        traffic: float | None = None,
    ) -> "Load":
        """This load with those parts replaced that are given."""
        return Load(
            self.cpu if cpu is None else cpu,
            self.kind if kind is None else kind,
            self.dirty if dirty is None else dirty,
            self.traffic if traffic is None else traffic,
        )


@dataclass(frozen=True, slots=True)
class DomainSpec:
    """A domain to start. host: None lets the lab choose the host with the fewest domains. paused: started but never
    run.
    """

    name: str
    host: str | None = None
    load: Load = field(default_factory=Load)
    vcpus: int = 1
    memory_mib: int = 96
    paused: bool = False

    @property
    def uuid(self) -> str:
        """The domain's uuid: the same for the same name in every lab."""
        return str(uuid5(_NAMES, f"domain {self.name}"))


@dataclass(frozen=True, slots=True)
class HostSpec:
    """A host by its number, 1..250: everything else follows from it."""

    number: int

    @property
    def name(self) -> str:
        return f"h{self.number}"

    @property
    def address(self) -> str:
        return f"{NETWORK}.{self.number}"

    @property
    def uri(self) -> str:
        """libvirt's address of this host, from the manager's side and from every other host."""
        return f"qemu+tcp://{self.address}/system"

    @property
    def uuid(self) -> str:
        return str(uuid5(_NAMES, f"host {self.name}"))


def checked(spec: DomainSpec) -> DomainSpec:
    """The spec itself. LabError, with one line on what is wrong with it, if it cannot be used."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,30}", spec.name):
        raise LabError(f"domain name {spec.name!r}: expected up to 31 of a-z, 0-9 and -")
    if not 1 <= spec.vcpus <= 16:
        raise LabError(f"domain {spec.name}: vcpus {spec.vcpus}: expected 1 to 16")
    if not spec.paused and not 64 <= spec.memory_mib <= 65536:
        raise LabError(f"domain {spec.name}: memory {spec.memory_mib} MiB: expected 64 to 65536 (the kernel needs 64)")
    check_load(spec.name, spec.load, spec.vcpus)
    return spec


def check_load(domain: str, load: Load, vcpus: int) -> None:
    """Raises LabError where a guest with that many vCPUs cannot make this load."""
    if not 0 <= load.cpu <= 100 * vcpus:
        raise LabError(f"domain {domain}: CPU load {load.cpu:g}: expected 0 to {100 * vcpus} percent")
    if load.kind not in ("share", "work"):
        raise LabError(f"domain {domain}: kind {load.kind!r}: expected share or work")
    for name, value in (("dirty", load.dirty), ("traffic", load.traffic)):
        if not 0 <= value <= 10_000:
            raise LabError(f"domain {domain}: {name} {value:g}: expected 0 to 10000 MB per second")


def placed(specs: tuple[DomainSpec, ...], hosts: tuple[str, ...]) -> tuple[DomainSpec, ...]:
    """Every spec with a host: its own, or the one that has the fewest domains so far (ties by order)."""
    counts = dict.fromkeys(hosts, 0)
    for spec in specs:
        if spec.host is not None:
            if spec.host not in counts:
                raise LabError(f"domain {spec.name}: host {spec.host}: expected one of {', '.join(hosts)}")
            counts[spec.host] += 1
    answer = []
    for spec in specs:
        host = spec.host or min(hosts, key=lambda name: counts[name])
        counts[host] += spec.host is None
        answer.append(replace(checked(spec), host=host))
    for name, count in Counter(spec.name for spec in answer).items():
        if count > 1:
            raise LabError(f"two domains have the same name: {name}")
    return tuple(answer)


def memory_for(specs: tuple[DomainSpec, ...]) -> int:
    """MiB for a host so that all domains fit on one (they may be moved there), QEMU's own memory included."""
    return 512 + sum(48 if spec.paused else spec.memory_mib + 128 for spec in specs)
