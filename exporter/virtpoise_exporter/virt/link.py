"""The long-lived, read-only connection to libvirt, kept by a thread of its own.

The thread lists the domains when an event says that something changed, and every few seconds in case an event was lost.
A scrape only reads the last list: a call that hangs in libvirt blocks this thread and no scrape. The thread asks only
for what libvirt knows itself (states and XML), never for what QEMU has to answer. A domain that libvirt holds locked is
without an answer; the others are not.
"""

import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import libvirt

from virtpoise_exporter.clock import SYSTEM, Clock
from virtpoise_exporter.log import log
from virtpoise_exporter.virt.model import Domain, HostFacts, Inventory
from virtpoise_exporter.virt.questions import text_of
from virtpoise_exporter.virt.session import RELIST_SECONDS, Session

FRESH_SECONDS = 2 * RELIST_SECONDS
_RECONNECT_SECONDS = 1.0
# What libvirtd answers to a client whose user or group it does not know, as it happens to users of containers.
_UNKNOWN = ("Failed to find user record", "Failed to find group record")


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

    def __init__(self, uri: str, listed: Callable[[Sequence[Domain]], None], clock: Clock = SYSTEM) -> None:
        self.uri = uri
        self._clock = clock
        self._listed = listed
        self._inventory: Inventory | None = None
        self._session: Session | None = None
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
        if last is None or self._lost.is_set() or self._clock.monotonic() - last.taken_at > FRESH_SECONDS:
            return None
        return last

    def handles(self, uuids: Iterable[str]) -> list[Any]:
        """libvirt's handles of the domains that it answered about in the last list."""
        handles = self._handles
        return [handles[uuid] for uuid in uuids if uuid in handles]

    def held(self, uuids: Collection[str]) -> set[str]:
        """Those domains that libvirt holds locked now. Takes a second for each, but for three at most."""
        session = self._session
        return session.held(uuids) if session else set()

    def _run(self) -> None:
        while True:
            try:
                host = self._inventory.host if self._inventory else HostFacts()
                self._session = Session(self.uri, host, self._take, self._lost.set, self._clock)
                self._session.run()
            except libvirt.libvirtError as error:
                reason = text_of(error.get_error_message) or str(error)
                if reason.startswith(_UNKNOWN):
                    reason += ": make a user and a group of the exporter's numbers on the host"
            except Exception as error:  # no answer of libvirt may end this thread
                log.debug("the domains cannot be listed", exc_info=True)
                reason = f"the domains cannot be listed: {error!r}"
            else:
                reason = "it closed the connection"
            self._lost.set()
            self._session = None
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
