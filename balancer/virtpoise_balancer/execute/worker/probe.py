"""The doctor's questions to a host: can domains be migrated from and to it? Changes nothing.

Whether one host reaches another is asked of the source's own daemon: a peer-to-peer migration whose description of the
domain is no domain at all. The source's daemon first connects to the destination and then reads that description, which
it can only refuse (libvirt, qemuMigrationSrcPerformPeer2Peer); no destination ever hears of a domain.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any
from xml.etree import ElementTree as ET

import libvirt

from virtpoise_balancer.execute.facts import LARGEST_BYTES, Bound, HardwareVerdict, HostFacts, Needs
from virtpoise_balancer.execute.worker.connection import UNREADABLE, message, text_of
from virtpoise_balancer.execute.worker.needs import cards_free, needs, numbers, parsed, plain_cpu
from virtpoise_balancer.execute.worker.storage import pools

_NO_DOMAIN = "<virtpoise-doctor/>"
# What the source says of that description, once it has reached the destination.
_REFUSALS = (libvirt.VIR_ERR_XML_ERROR, libvirt.VIR_ERR_XML_DETAIL, libvirt.VIR_ERR_XML_INVALID_SCHEMA)
# What it says when it does not reach it; anything else (a job on the domain, a disk that is unsafe to migrate) is about
# the domain.
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
# What libvirt says of a domain that is not there, or does not run, by now.
_ENDED = (libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_OPERATION_INVALID)
# What a host says that does not have a QEMU of that name, or a QEMU without the machine type or without KVM; and one
# whose libvirt does not know the model of the CPU.
_NO_SUCH_MACHINE = (libvirt.VIR_ERR_INVALID_ARG, libvirt.VIR_ERR_CONFIG_UNSUPPORTED)
_NO_SUCH_QEMU = "qemu binary"  # an error of the system, as many others
_NO_SUCH_CPU = "unknown cpu model"  # an internal error to libvirt
# Over ssh the refusal is often lost. The source closes its connection to the destination before it answers. If the
# other end is gone first, the source answers "End of file" instead (a quarter of all answers of libvirt 9.0 and 11.3).
# An unreachable destination gives the same code, but each time. So only a slow answer, or one that repeats this often,
# counts.
_MAY_HIDE_A_REFUSAL = (libvirt.VIR_ERR_SYSTEM_ERROR, libvirt.VIR_ERR_RPC)
_MOST_TRIES = 12
_RETRY_SECONDS = 15.0


def facts(connection: libvirt.virConnect, copies: bool = False) -> HostFacts:
    """The facts about the host, and what its running domains need. ``copies``: with what it takes to copy disks."""
    capabilities = parsed(text_of(connection.getCapabilities))
    cpu = capabilities.find("./host/cpu")
    running = connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_RUNNING)
    own = plain_cpu(cpu)
    return HostFacts(
        libvirt_version=connection.getLibVersion(),
        hypervisor_version=_hypervisor_version(connection),
        cpu=None if cpu is None else ET.tostring(cpu, encoding="unicode"),
        devices=_devices(connection),
        uuid=capabilities.findtext("./host/uuid"),
        networks=_listed(lambda: [text_of(one.name) for one in _networks(connection)]),
        cards_free=_cards_free(connection),
        pools=pools(connection, free=copies),
        secrets=_listed(
            lambda: [name for one in connection.listAllSecrets() for name in (one.UUIDString(), text_of(one.usageID))]
        ),
        filters=_listed(lambda: [text_of(one.name) for one in connection.listAllNWFilters()]),
        cpus=_cpus(connection),
        nodes=frozenset(
            number
            for cell in capabilities.findall("./host/topology/cells/cell")
            for number in numbers(cell.get("id", ""))
        )
        or None,
        domains=tuple(_needs(running, own, copies=copies)),
        may_abort=_may_abort(running[0]) if running else None,
    )


def _hypervisor_version(connection: libvirt.virConnect) -> int | None:
    """The version of QEMU. None where libvirt finds none in its usual place: domains may name another one, or it is
    being upgraded.
    """
    try:
        return int(connection.getVersion())
    except (libvirt.libvirtError, *UNREADABLE):
        return None


def reaches(connection: libvirt.virConnect, name: str, destination: str) -> tuple[bool, str | None]:
    """Whether the daemon of the host ``name`` itself reaches the destination's address.

    Whether it could be asked, and why not; or what it says when it does not reach the destination, None when it does.
    """
    running = connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_RUNNING)
    why = "" if running else f"no domain runs on {name}, so its daemon cannot be asked"
    for domain in running[:_MOST_ASKED]:
        error = _answer(domain, destination)
        if error is None:
            return True, "the description of no domain was accepted"  # no libvirt does this
        if error.get_error_code() in _REFUSALS:
            return True, None
        if error.get_error_code() in _NO_CONNECTION:
            return True, message(error)
        why = f"{text_of(domain.name)}: {message(error)}"
    return False, why


def _answer(domain: libvirt.virDomain, destination: str) -> libvirt.libvirtError | None:
    """What the source's daemon answers to a migration of the domain whose description is no domain."""
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


def runs_cpu(connection: libvirt.virConnect, cpu: str) -> bool | None:
    """Whether this host's CPU can do all that the given one can; None where libvirt cannot compare them."""
    return _fits(connection.compareCPU(cpu))


def verdicts(connection: libvirt.virConnect, kinds: Sequence[Mapping[str, Any]]) -> list[HardwareVerdict]:
    """Whether this host has each of these kinds of hardware, as libvirt reports it.

    ``kinds``: the fields of Hardware.
    """
    return [_verdict(connection, kind) for kind in kinds]


def _verdict(connection: libvirt.virConnect, kind: Mapping[str, Any]) -> HardwareVerdict:
    binary = kind["emulator"] or None, kind["arch"], kind["machine"], kind["type"]
    try:
        connection.getDomainCapabilities(*binary)
    except libvirt.libvirtError as error:
        lacks = error.get_error_code() in _NO_SUCH_MACHINE or _NO_SUCH_QEMU in message(error).lower()
        return HardwareVerdict(machine=False if lacks else None)
    if kind["cpu"] is None:
        return HardwareVerdict(machine=True)
    try:
        if kind["own_cpu"]:
            return HardwareVerdict(machine=True, cpu=runs_cpu(connection, kind["cpu"]))
        found = connection.compareHypervisorCPU(*binary, kind["cpu"])
    except libvirt.libvirtError as error:
        return HardwareVerdict(machine=True, cpu=False if _NO_SUCH_CPU in message(error).lower() else None)
    return HardwareVerdict(machine=True, cpu=_fits(found))


def _fits(verdict: int) -> bool | None:
    return None if verdict == libvirt.VIR_CPU_COMPARE_ERROR else verdict != libvirt.VIR_CPU_COMPARE_INCOMPATIBLE


def unseen(connection: libvirt.virConnect, paths: Sequence[str]) -> list[str]:
    """Those of the paths that are in none of this host's storage pools."""
    missing = []
    for path in paths:
        try:
            connection.storageVolLookupByPath(path)
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_STORAGE_VOL:
                raise
            missing.append(path)
    return missing


def _may_abort(domain: libvirt.virDomain) -> bool | None:
    """Whether this account may abort a migration of the domain: libvirt counts that as ``domain.write``.

    Autostart, which needs the same right, is set to what it is. libvirt looks at the right first, and then changes
    nothing (``qemuDomainSetAutostart``). None where it gives another answer.
    """
    try:
        domain.setAutostart(domain.autostart())
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_ACCESS_DENIED:
            return False
        # A domain without a definition has no autostart.
        return True if error.get_error_code() == libvirt.VIR_ERR_OPERATION_INVALID else None
    except UNREADABLE:
        return None
    return True


def _devices(connection: libvirt.virConnect) -> frozenset[str] | None:
    """The host's network devices, as libvirt's interface driver finds them now; None where it has none.

    A bridge that joins nothing yet is inactive to libvirt, and domains join it all the same. Its driver for node
    devices knows only those that udev has reported: without udev it lists no bridge.
    """
    try:
        found = connection.listAllInterfaces()
        return frozenset(text_of(one.name) for one in found)
    except (libvirt.libvirtError, *UNREADABLE):
        return None


def _networks(connection: libvirt.virConnect) -> Sequence[libvirt.virNetwork]:
    found: Sequence[libvirt.virNetwork] = connection.listAllNetworks(libvirt.VIR_CONNECT_LIST_NETWORKS_ACTIVE)
    return found


def _cards_free(connection: libvirt.virConnect) -> dict[str, int]:
    """How many cards are free, by each network from which a domain has its card alone, as far as libvirt says it."""
    found = {}
    with contextlib.suppress(libvirt.libvirtError, *UNREADABLE):
        for network in _networks(connection):
            with contextlib.suppress(libvirt.libvirtError, ET.ParseError, ValueError, *UNREADABLE):
                free = cards_free(text_of(network.XMLDesc))
                if free is not None:
                    found[text_of(network.name)] = free
    return found


def _needs(running: Iterable[libvirt.virDomain], own_cpu: str | None, *, copies: bool = False) -> Iterator[Needs]:
    for domain in running:

        def sizes(device: str, of: libvirt.virDomain = domain) -> tuple[int, int] | None:
            with contextlib.suppress(libvirt.libvirtError):
                capacity, stored, _ = of.blockInfo(device)
                return (capacity, min(stored, capacity)) if capacity <= LARGEST_BYTES else None
            return None

        try:
            yield needs(
                text_of(domain.XMLDesc),
                own_cpu,
                _snapshots(domain),
                sizes if copies else None,
                partial(text_of, partial(domain.XMLDesc, libvirt.VIR_DOMAIN_XML_INACTIVE)),
            )
        except libvirt.libvirtError as error:
            if error.get_error_code() not in _ENDED:  # such as one that is too large for libvirt's messages
                yield _unread(domain)
        except (ET.ParseError, ValueError, *UNREADABLE):
            yield _unread(domain)


def _unread(domain: libvirt.virDomain) -> Needs:
    """It stays where it is: what it needs is not known."""
    why = Bound(kind="setting", why="its description cannot be read")
    return Needs(name=text_of(domain.name), uuid=domain.UUIDString(), bound=(why,), unread=True)


def _cpus(connection: libvirt.virConnect) -> frozenset[int] | None:
    try:
        _, online, _ = connection.getCPUMap()
    except libvirt.libvirtError:
        return None
    return frozenset(number for number, there in enumerate(online) if there)


def _snapshots(domain: libvirt.virDomain) -> int:
    try:
        return int(domain.snapshotNum())
    except (libvirt.libvirtError, *UNREADABLE):
        return 0


def _listed(names: Callable[[], Iterable[str]]) -> frozenset[str] | None:
    """The names that libvirt lists, or None where it does not say. None are there where it has no driver for them: no
    domain can use one.
    """
    try:
        return frozenset(name for name in names() if name)
    except libvirt.libvirtError as error:
        return frozenset() if error.get_error_code() == libvirt.VIR_ERR_NO_SUPPORT else None
    except UNREADABLE:
        return None
