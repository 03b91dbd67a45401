"""The one long-lived, read-only connection to libvirt, kept by a thread of its own.

The thread lists the domains when an event says that something changed, and every few seconds in case an event was lost.
A scrape only reads the last list: a call that hangs in libvirt blocks this thread and no scrape. The thread asks only
for what libvirt knows itself (states and XML), never for what QEMU has to answer.
"""

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from queue import Empty, SimpleQueue
from typing import Any

import libvirt

from virtpoise_exporter.log import log
from virtpoise_exporter.virt.model import Domain, Facts, Forward, HostFacts, Inventory
from virtpoise_exporter.virt.xml import domain_facts, host_cpu, network_forward

_RELIST_SECONDS = 5.0
_GATHER_SECONDS = 0.1  # one list answers all events within this time
_FRESH_SECONDS = 2 * _RELIST_SECONDS
_FACTS_SECONDS = 60.0
_MOST_FACTS_SECONDS = 2 * _FACTS_SECONDS  # older facts are left out
_RECONNECT_SECONDS = 1.0
_KEEPALIVE = (5, 3)  # a libvirtd that is silent for 5 s three times is gone

_EVENTS = (
    libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE,
    libvirt.VIR_DOMAIN_EVENT_ID_BALLOON_CHANGE,
    libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_ADDED,
    libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED,
    libvirt.VIR_DOMAIN_EVENT_ID_METADATA_CHANGE,
)


def start_event_loop() -> None:
    """Starts libvirt's event loop: once per process, before the first connection."""
    libvirt.registerErrorHandler(lambda _context, _error: None, None)  # errors come as exceptions, not on stderr too
    libvirt.virEventRegisterDefaultImpl()

    def loop() -> None:
        while True:
            libvirt.virEventRunDefaultImpl()

    threading.Thread(target=loop, name="libvirt-events", daemon=True).start()


class Link:
    """Keeps an ``Inventory`` fresh. The link's thread calls ``listed`` with the domains of every new list."""

    def __init__(self, uri: str, listed: Callable[[Sequence[Domain]], None]) -> None:
        self.uri = uri
        self._listed = listed
        self._inventory: Inventory | None = None
        self._handles: Mapping[str, Any] = {}
        self._lost = threading.Event()
        self._first = threading.Event()
        self._complained = ""

    def start(self) -> None:
        """Starts to connect in the background, and reconnects whenever the connection is lost."""
        threading.Thread(target=self._run, name="libvirt-link", daemon=True).start()

    def wait_for_first(self, seconds: float) -> None:
        """Waits for the first list, but not longer than ``seconds``."""
        self._first.wait(seconds)

    def last_inventory(self) -> Inventory | None:
        """The last list, however old it is."""
        return self._inventory

    def inventory(self) -> Inventory | None:
        """The last list; None if it is older than 10 s or the connection is lost."""
        last = self._inventory
        if last is None or self._lost.is_set() or time.monotonic() - last.taken_at > _FRESH_SECONDS:
            return None
        return last

    def handles(self, uuids: Iterable[str]) -> list[Any]:
        """libvirt's handles of the domains that were in the last list."""
        handles = self._handles
        return [handles[uuid] for uuid in uuids if uuid in handles]

    def _run(self) -> None:
        while True:
            try:
                _Session(self.uri, self._take, self._lost.set).run()
            except libvirt.libvirtError as error:
                reason = error.get_error_message() or str(error)
            except Exception:  # no answer of libvirt may end this thread
                log.exception("the domains cannot be listed")
                reason = "see the error above"
            else:
                reason = "it closed the connection"
            self._lost.set()
            self._handles = {}
            if reason != self._complained:
                log.warning("libvirt at %s is gone, trying again: %s", self.uri, reason)
                self._complained = reason
            time.sleep(_RECONNECT_SECONDS)

    def _take(self, inventory: Inventory, handles: Mapping[str, Any]) -> None:
        self._handles = handles
        self._inventory = inventory
        self._listed(inventory.domains)
        self._lost.clear()
        self._first.set()
        if self._complained:
            log.info("libvirt at %s answers", self.uri)
            self._complained = ""


class _Session:
    """One connection from its opening to its end."""

    def __init__(
        self, uri: str, take: Callable[[Inventory, Mapping[str, Any]], None], lost: Callable[[], None]
    ) -> None:
        self._take = take
        self._lost = lost
        self._facts: dict[str, tuple[tuple[str, int], float, Facts]] = {}
        self._networks: dict[str, tuple[float, Forward]] = {}
        self._closed = False
        self._changed: SimpleQueue[str] = SimpleQueue()  # uuids; empty when the connection is lost
        self._connection = libvirt.openReadOnly(uri)

    def run(self) -> None:
        """Lists the domains again and again until the connection is lost."""
        registered: list[int] = []
        try:
            self._watch(registered)
            host = _host_facts(self._connection)
            changed: set[str] = set()
            while not self._closed:
                began = time.monotonic()
                self._list(host, changed, began)
                changed = self._await_change(began + _RELIST_SECONDS)
        finally:
            for identifier in registered:
                _quietly(self._connection.domainEventDeregisterAny, identifier)
            _quietly(self._connection.unregisterCloseCallback)
            _quietly(self._connection.close)

    def _watch(self, registered: list[int]) -> None:
        """Registers for events and for the end of the connection.

        Drivers without a daemon (test, embedded) have no end.
        """
        try:
            self._connection.registerCloseCallback(self._on_close, None)
            self._connection.setKeepAlive(*_KEEPALIVE)
        except libvirt.libvirtError as error:
            log.debug("no keepalive: %s", error)
        for event in _EVENTS:
            try:
                registered.append(self._connection.domainEventRegisterAny(None, event, self._on_event, None))
            except libvirt.libvirtError as error:
                log.debug("no events of kind %s: %s", event, error)

    def _on_close(self, _connection: Any, _reason: int, _opaque: Any) -> None:
        self._closed = True
        self._lost()
        self._changed.put("")

    def _on_event(self, _connection: Any, domain: Any, *_details: Any) -> None:
        self._changed.put(domain.UUIDString())

    def _await_change(self, until: float) -> set[str]:
        """The uuids of changed domains; empty if none changes before ``until``, when it is time to list anyway."""
        try:
            changed = {self._changed.get(timeout=max(_GATHER_SECONDS, until - time.monotonic()))}
        except Empty:
            return set()
        time.sleep(_GATHER_SECONDS)
        while True:
            try:
                changed.add(self._changed.get_nowait())
            except Empty:
                return changed

    def _list(self, host: HostFacts, changed: set[str], now: float) -> None:
        listed = self._connection.getAllDomainStats(
            libvirt.VIR_DOMAIN_STATS_STATE, libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
        )
        domains, handles = [], {}
        for handle, stats in listed:
            uuid, name, identifier = handle.UUIDString(), handle.name(), handle.ID()
            handles[uuid] = handle
            domains.append(
                Domain(
                    uuid=uuid,
                    name=name,
                    id=identifier,
                    state=stats.get("state.state", 0),
                    reason=stats.get("state.reason", 0),
                    facts=self._facts_of(handle, uuid, (name, identifier), now, again=uuid in changed),
                )
            )
        self._facts = {uuid: facts for uuid, facts in self._facts.items() if uuid in handles}
        domains.sort(key=lambda domain: (domain.name, domain.uuid))
        self._take(Inventory(host, tuple(domains), self._forwards(domains, now), now), handles)

    def _facts_of(self, handle: Any, uuid: str, life: tuple[str, int], now: float, *, again: bool) -> Facts:
        known = self._facts.get(uuid)
        lasts = _FACTS_SECONDS * (1 + int(uuid[:2], 16) / 512)  # spread, so that not all fall due in one list
        if known and known[0] == life and not again and now - known[1] < lasts:
            return known[2]
        try:
            facts = domain_facts(handle.XMLDesc(0))
        except libvirt.libvirtError as error:  # it ended between the list and this call
            log.debug("no XML of domain %s: %s", life[0], error)
            return known[2] if known and known[0] == life and now - known[1] <= _MOST_FACTS_SECONDS else Facts()
        self._facts[uuid] = (life, now, facts)
        return facts

    def _forwards(self, domains: Sequence[Domain], now: float) -> dict[str, Forward]:
        names = {nic.network for domain in domains for nic in domain.facts.nics if nic.network}
        for name in names:
            if name not in self._networks or now - self._networks[name][0] > _FACTS_SECONDS:
                try:
                    forward = network_forward(self._connection.networkLookupByName(name).XMLDesc(0))
                except libvirt.libvirtError as error:
                    log.debug("no XML of network %s: %s", name, error)
                    forward = Forward()
                self._networks[name] = (now, forward)
        return {name: self._networks[name][1] for name in names}


def _host_facts(connection: Any) -> HostFacts:
    host_uuid, cpu_model, arch = host_cpu(connection.getCapabilities())
    return HostFacts(
        hostname=connection.getHostname(),
        host_uuid=host_uuid,
        cpu_model=cpu_model,
        arch=arch,
        hypervisor=f"{connection.getType()} {_version(connection.getVersion())}",
        libvirt_version=_version(connection.getLibVersion()),
    )


def _version(number: int) -> str:
    """libvirt packs a version as major * 1,000,000 + minor * 1,000 + release."""
    return f"{number // 1_000_000}.{number // 1_000 % 1_000}.{number % 1_000}"


def _quietly(action: Callable[..., Any], *arguments: Any) -> None:
    """Runs an action that frees a connection, which may be dead already."""
    try:
        action(*arguments)
    except libvirt.libvirtError as error:
        log.debug("while closing: %s", error)
