"""The one long-lived, read-only connection to libvirt, kept by a thread of its own.

The thread lists the domains when an event says that something changed, and every few seconds in case an event was
lost. A scrape only ever reads the last list: whatever hangs in libvirt hangs this thread and no scrape.
"""

import threading
import time
from typing import Any, Final

import libvirt

from virtpoise_exporter.log import log
from virtpoise_exporter.virt.model import Domain, Facts, HostFacts, Inventory
from virtpoise_exporter.virt.xml import domain_facts, host_cpu

RELIST_SECONDS: Final = 5.0
FRESH_SECONDS: Final = 2 * RELIST_SECONDS
FACTS_SECONDS: Final = 60.0
RECONNECT_SECONDS: Final = 1.0
KEEPALIVE: Final = (5, 3)  # a libvirtd that is silent for 5 s three times is gone

_EVENTS: Final = (
    libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE,
    libvirt.VIR_DOMAIN_EVENT_ID_BALLOON_CHANGE,
    libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_ADDED,
    libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED,
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
    """Keeps an `Inventory` fresh. `inventory()` never blocks."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._inventory: Inventory | None = None
        self._facts: dict[str, tuple[tuple[str, int], float, Facts]] = {}
        self._changed: set[str] = set()
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._lost = threading.Event()
        self._complained = ""
        self._thread = threading.Thread(target=self._run, name="libvirt-link", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._wake.set()

    def last_inventory(self) -> Inventory | None:
        """The last list, however old it is."""
        return self._inventory

    def inventory(self) -> Inventory | None:
        """The last list if libvirt still stands behind it, else None."""
        last = self._inventory
        if last is None or self._lost.is_set() or time.monotonic() - last.taken_at > FRESH_SECONDS:
            return None
        return last

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._session()
            except libvirt.libvirtError as error:
                message = f"libvirt does not answer at {self.uri}: {error.get_error_message() or error}"
                if message != self._complained:
                    log.warning("%s", message)
                    self._complained = message
            self._lost.set()
            self._stopping.wait(RECONNECT_SECONDS)

    def _session(self) -> None:
        """One connection from its opening to its end."""
        connection = libvirt.openReadOnly(self.uri)
        registered: list[int] = []
        closed = threading.Event()

        def on_close(_connection: Any, _reason: int, _opaque: Any) -> None:
            closed.set()
            self._lost.set()
            self._wake.set()

        def on_event(_connection: Any, domain: Any, *_details: Any) -> None:
            self._changed.add(domain.UUIDString())
            self._wake.set()

        try:
            watching = self._watch(connection, on_close)
            for event in _EVENTS if watching else ():
                try:
                    registered.append(connection.domainEventRegisterAny(None, event, on_event, None))
                except libvirt.libvirtError as error:
                    log.debug("no events of kind %s: %s", event, error)
            host = _host_facts(connection)
            self._facts.clear()
            self._lost.clear()
            while not closed.is_set() and not self._stopping.is_set():
                self._wake.clear()
                self._inventory = self._list(connection, host)
                if self._lost.is_set() and not closed.is_set():
                    self._lost.clear()
                if self._complained:
                    log.info("libvirt answers again at %s", self.uri)
                    self._complained = ""
                self._wake.wait(RELIST_SECONDS)
        finally:
            for identifier in registered:
                _quietly(connection.domainEventDeregisterAny, identifier)
            _quietly(connection.unregisterCloseCallback)
            _quietly(connection.close)

    @staticmethod
    def _watch(connection: Any, on_close: Any) -> bool:
        """Asks to be told of a lost connection; False for drivers that are no connection (test, embedded)."""
        try:
            connection.registerCloseCallback(on_close, None)
            connection.setKeepAlive(*KEEPALIVE)
        except libvirt.libvirtError as error:
            log.debug("no keepalive at %s: %s", connection, error)
        return True

    def _list(self, connection: Any, host: HostFacts) -> Inventory:
        changed, self._changed = self._changed, set()
        now = time.monotonic()
        listed = connection.getAllDomainStats(
            libvirt.VIR_DOMAIN_STATS_STATE, libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
        )
        domains = []
        for handle, stats in listed:
            uuid, name, identifier = handle.UUIDString(), handle.name(), handle.ID()
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
        known = {domain.uuid for domain in domains}
        for uuid in self._facts.keys() - known:
            del self._facts[uuid]
        return Inventory(host, tuple(sorted(domains, key=lambda domain: (domain.name, domain.uuid))), now)

    def _facts_of(self, handle: Any, uuid: str, life: tuple[str, int], now: float, *, again: bool) -> Facts:
        known = self._facts.get(uuid)
        if known and known[0] == life and not again and now - known[1] < FACTS_SECONDS:
            return known[2]
        try:
            facts = domain_facts(handle.XMLDesc(0))
        except libvirt.libvirtError as error:  # it went away between the list and the question
            log.debug("no XML of domain %s: %s", life[0], error)
            return known[2] if known and known[0] == life else Facts()
        self._facts[uuid] = (life, now, facts)
        return facts


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


def _quietly(action: Any, *arguments: Any) -> None:
    """Does what frees a connection that may be dead already."""
    try:
        action(*arguments)
    except libvirt.libvirtError as error:
        log.debug("while closing: %s", error)
