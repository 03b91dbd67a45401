"""What a host's libvirt tells that decides whether domains can be migrated from and to it. Looks; changes nothing.

Whether one host reaches another is asked of the source's own daemon: a peer-to-peer migration whose description of the domain is no
domain at all. The source's daemon first connects to the destination and then reads that description, which it can only refuse
(libvirt, qemuMigrationSrcPerformPeer2Peer); no destination ever hears of a domain.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from xml.etree import ElementTree as ET

import libvirt

from virtpoise_balancer.errors import LibvirtError
from virtpoise_balancer.execute.connections import connect, said, within

_ANSWER_SECONDS = 30.0
_NO_DOMAIN = "<virtpoise-doctor/>"
# What the source says of that description, once it has reached the destination.
_REFUSALS = (libvirt.VIR_ERR_XML_ERROR, libvirt.VIR_ERR_XML_DETAIL, libvirt.VIR_ERR_XML_INVALID_SCHEMA)
# What it says when it does not reach it; anything else (a job on the domain, a disk that is unsafe to migrate) is about the domain.
_NO_CONNECTION = (
    libvirt.VIR_ERR_OPERATION_FAILED,
    libvirt.VIR_ERR_NO_CONNECT,
    libvirt.VIR_ERR_RPC,
    libvirt.VIR_ERR_SYSTEM_ERROR,
    libvirt.VIR_ERR_AUTH_FAILED,
    libvirt.VIR_ERR_AUTH_UNAVAILABLE,
    libvirt.VIR_ERR_GNUTLS_ERROR,
)
_MOST_ASKED = 5
# Over ssh the refusal is often lost: the source closes its connection to the destination before it answers, finds the other end gone
# meanwhile, and answers with that ("End of file", seen in a quarter of all answers of libvirt 9.0 and 11.3). A destination that cannot
# be reached gives the same code, but each time. So only what comes this often in a row, or slowly, is taken for that.
_MAY_HIDE_A_REFUSAL = (libvirt.VIR_ERR_SYSTEM_ERROR, libvirt.VIR_ERR_RPC)
_MOST_TRIES = 12
_RETRY_SECONDS = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What a running domain needs on any host it is moved to.

    ``disks``: files and block devices by their paths; ``pools``: those from which disks come as volumes; ``secrets``: what disks over a
    network (rbd, iscsi) are opened with, by uuid or usage.
    """

    name: str
    machine: str | None = None  # its machine type, as QEMU names it
    disks: tuple[str, ...] = ()
    pools: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()  # libvirt networks
    bridges: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """``cpu``: the host's own CPU as libvirt describes it, XML; versions as libvirt counts them (major * 10^6 + minor * 10^3 + release).

    ``uuid``: by which libvirt tells hosts apart; ``machines``: the machine types that its hypervisor has, and their short names;
    ``pools`` are the active ones; ``secrets`` by uuid and usage.
    """

    libvirt_version: int
    hypervisor_version: int
    cpu: str | None
    devices: frozenset[str] | None  # network devices; None where libvirt does not list them
    uuid: str | None = None
    machines: frozenset[str] = frozenset()
    networks: frozenset[str] = frozenset()
    pools: frozenset[str] = frozenset()
    secrets: frozenset[str] = frozenset()
    domains: tuple[Needs, ...] = ()


@dataclass(slots=True)
class Probe:
    """One host, connected. LibvirtError when it does not answer."""

    name: str
    uri: str
    timeout_seconds: float
    facts: HostFacts = field(init=False)
    _connection: libvirt.virConnect = field(init=False)

    def __post_init__(self) -> None:
        self._connection = connect(self.uri, self.timeout_seconds)
        self.facts = within(_ANSWER_SECONDS, lambda: _facts(self._connection), self.name)

    def close(self) -> None:
        try:
            self._connection.close()
        except libvirt.libvirtError:
            return  # it was dead already

    def reaches(self, destination: str) -> str | None:
        """Why the host's own daemon does not reach the destination's address, or None. LibvirtError when it cannot be asked."""

        def ask() -> str | None:
            running = self._connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_RUNNING)
            if not running:
                raise LibvirtError(f"no domain runs on {self.name}, so its daemon cannot be asked")
            why = ""
            for domain in running[:_MOST_ASKED]:
                error = _answer(domain, destination)
                if error is None:
                    return "the description of no domain was accepted"  # no libvirt does this
                if error.get_error_code() in _REFUSALS:
                    return None
                if error.get_error_code() in _NO_CONNECTION:
                    return said(error)
                why = f"{domain.name()}: {said(error)}"
            raise LibvirtError(why)

        return within(self.timeout_seconds + _ANSWER_SECONDS, ask, self.name)

    def runs_cpu_of(self, other: HostFacts) -> bool | None:
        """Whether this host's CPU can do all that the other's can; None where libvirt cannot compare them."""
        if other.cpu is None:
            return None
        cpu = other.cpu
        try:
            verdict = within(_ANSWER_SECONDS, lambda: self._connection.compareCPU(cpu), self.name)
        except LibvirtError:
            return None
        return None if verdict == libvirt.VIR_CPU_COMPARE_ERROR else verdict != libvirt.VIR_CPU_COMPARE_INCOMPATIBLE

    def unseen(self, paths: Sequence[str]) -> tuple[str, ...]:
        """Those of the paths that are in none of this host's storage pools. LibvirtError when it cannot be asked."""

        def ask() -> tuple[str, ...]:
            missing = []
            for path in paths:
                try:
                    self._connection.storageVolLookupByPath(path)
                except libvirt.libvirtError as error:
                    if error.get_error_code() != libvirt.VIR_ERR_NO_STORAGE_VOL:
                        raise
                    missing.append(path)
            return tuple(missing)

        return within(_ANSWER_SECONDS, ask, self.name)


def _answer(domain: libvirt.virDomain, destination: str) -> libvirt.libvirtError | None:
    """What the source's daemon says of a migration of the domain whose description is no domain."""
    flags = libvirt.VIR_MIGRATE_LIVE | libvirt.VIR_MIGRATE_PEER2PEER
    since, tries = time.monotonic(), 0
    while True:
        tries += 1
        try:
            domain.migrateToURI3(destination, {libvirt.VIR_MIGRATE_PARAM_DEST_XML: _NO_DOMAIN}, flags)
        except libvirt.libvirtError as error:
            hidden = error.get_error_code() in _MAY_HIDE_A_REFUSAL
            if not hidden or tries == _MOST_TRIES or time.monotonic() - since > _RETRY_SECONDS:
                return error
        else:
            return None


def _facts(connection: libvirt.virConnect) -> HostFacts:
    capabilities = ET.fromstring(connection.getCapabilities())  # noqa: S314 - from the host's own libvirt
    cpu = capabilities.find("./host/cpu")
    machines = [name for one in capabilities.iter("machine") for name in (one.text, one.get("canonical")) if name]
    running = connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_RUNNING)
    return HostFacts(
        libvirt_version=connection.getLibVersion(),
        hypervisor_version=connection.getVersion(),
        cpu=None if cpu is None else ET.tostring(cpu, encoding="unicode"),
        devices=_devices(connection),
        uuid=capabilities.findtext("./host/uuid"),
        machines=frozenset(machines),
        networks=_listed(
            lambda: [one.name() for one in connection.listAllNetworks(libvirt.VIR_CONNECT_LIST_NETWORKS_ACTIVE)]
        ),
        pools=_listed(
            lambda: [
                one.name() for one in connection.listAllStoragePools(libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE)
            ]
        ),
        secrets=_listed(
            lambda: [name for one in connection.listAllSecrets() for name in (one.UUIDString(), one.usageID())]
        ),
        domains=tuple(_needs(domain.XMLDesc()) for domain in running),
    )


def _devices(connection: libvirt.virConnect) -> frozenset[str] | None:
    try:
        found = connection.listAllDevices(libvirt.VIR_CONNECT_LIST_NODE_DEVICES_CAP_NET)
        names = [ET.fromstring(device.XMLDesc()).findtext("./capability/interface") for device in found]  # noqa: S314
    except libvirt.libvirtError:
        return None  # this libvirt has no driver for it
    return frozenset(name for name in names if name)


def _listed(names: Callable[[], Iterable[str]]) -> frozenset[str]:
    """The names that libvirt lists; none where it has no driver for them, so that no domain there can use one."""
    try:
        return frozenset(name for name in names() if name)
    except libvirt.libvirtError:
        return frozenset()


def _needs(description: str) -> Needs:
    root = ET.fromstring(description)  # noqa: S314 - from the host's own libvirt
    disk_sources = root.findall("./devices/disk/source")
    # Told of the disk or of its source, and since the first is the older way libvirt may tell both.
    secrets = [*root.findall("./devices/disk/auth/secret"), *root.findall("./devices/disk/source/auth/secret")]
    sources = root.findall("./devices/interface/source")
    return Needs(
        name=root.findtext("name") or "?",
        machine=kind.get("machine") if (kind := root.find("./os/type")) is not None else None,
        disks=tuple(path for source in disk_sources if (path := source.get("file") or source.get("dev")) is not None),
        pools=tuple(sorted({pool for source in disk_sources if (pool := source.get("pool"))})),
        secrets=tuple(sorted({name for secret in secrets if (name := secret.get("uuid") or secret.get("usage"))})),
        networks=tuple(sorted({name for source in sources if (name := source.get("network"))})),
        bridges=tuple(
            sorted({name for source in sources if not source.get("network") and (name := source.get("bridge"))})
        ),
    )
