"""One connection to libvirt, from its opening to its end: lists the domains, reads their XML, listens for events."""

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from enum import Enum
from queue import Empty, SimpleQueue
from typing import Any, Literal, TypeVar
from xml.etree.ElementTree import ParseError

import libvirt

from virtpoise_exporter.clock import SYSTEM, Clock
from virtpoise_exporter.log import log, shortened
from virtpoise_exporter.virt.model import Domain, Facts, Forward, HostFacts, Inventory
from virtpoise_exporter.virt.questions import UNREADABLE, HeldUpError, Questions, text_of
from virtpoise_exporter.virt.xml import domain_facts, host_cpu, network_forward

_T = TypeVar("_T")

RELIST_SECONDS = 5.0
_GATHER_SECONDS = 0.1  # one list answers all events within this time
_FACTS_SECONDS = 60.0
_HOST_SECONDS = 2.0  # the first list waits so long for what the host is
_KEEPALIVE = (5, 3)  # a libvirtd that is silent for 5 s three times is gone
_LIST, _PING = "the list of domains", "libvirt's version"
_MOST_COMPLAINTS = 1000  # of one connection; each is logged once
_SECOND_LIST = "the list over the second connection"


class Held(Enum):
    """No answer of libvirt."""

    HELD = 1


HELD: Literal[Held.HELD] = Held.HELD

_EVENTS = (
    libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE,
    libvirt.VIR_DOMAIN_EVENT_ID_BALLOON_CHANGE,
    libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_ADDED,
    libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED,
    libvirt.VIR_DOMAIN_EVENT_ID_METADATA_CHANGE,
)


class Session:
    """Lists the domains again and again.

    The list waits for every domain that libvirt holds locked. When it does, the domains of the last list and of the
    events since are asked for one by one, over a second connection: libvirtd works on five questions of a connection at
    once. Then only the domains that libvirt holds are without an answer.

    A domain that may be locked is never looked up: libvirt would hold the lock of its list of domains meanwhile, and
    with it all its clients as soon as a domain is defined or removed. A question for statistics takes no such lock.
    """

    def __init__(
        self,
        uri: str,
        host: HostFacts,
        take: Callable[[Inventory, Mapping[str, Any]], None],
        lost: Callable[[], None],
        clock: Clock = SYSTEM,
    ) -> None:
        """Keep a connection to libvirt. ``host`` is what was last known of it.

        ``take`` is called with each list, ``lost`` when the connection ends.
        """
        self._take = take
        self._lost = lost
        self._clock = clock
        self._host = host
        self._host_read = threading.Event()
        self._facts: dict[str, tuple[tuple[str, int], float, Facts]] = {}
        self._networks: dict[str, tuple[float, Forward]] = {}
        self._handles: dict[str, Any] = {}
        self._second_handles: dict[str, Any] = {}  # the same domains' over the second connection
        self._domains: dict[str, Domain] = {}
        self._answered_at: dict[str, float] = {}
        self._missed: set[str] = set()  # domains with events since the last list of all
        self._complaints: set[str] = set()
        self._closed = False
        self._changed: SimpleQueue[str] = SimpleQueue()  # uuids; empty when the connection is lost
        self._questions, self._second_questions = Questions(), Questions()  # one for each connection
        self._connection = libvirt.openReadOnly(uri)
        try:
            self._second = libvirt.openReadOnly(uri)
        except libvirt.libvirtError:
            _quietly(self._connection.close)
            raise

    def run(self) -> None:
        """Lists the domains again and again until the connection is lost."""
        registered: list[int] = []
        try:
            self._watch(registered)
            threading.Thread(target=self._keep_host, name="libvirt-host", daemon=True).start()
            self._host_read.wait(_HOST_SECONDS)
            changed: set[str] = set()
            while not self._closed:
                began = self._clock.monotonic()
                self._list(changed, began)
                changed = self._await_change(began + RELIST_SECONDS)
        finally:
            self._closed = True
            for identifier in registered:
                _quietly(self._second.domainEventDeregisterAny, identifier)
            for connection in (self._connection, self._second):
                _quietly(connection.unregisterCloseCallback)
                _quietly(connection.close)

    def held(self, uuids: Collection[str]) -> set[str]:
        """Those domains that libvirt does not answer about now. Takes a second for each, but for three at most."""
        return {uuid for uuid in uuids if self._look(uuid, self._state) is HELD}

    def _watch(self, registered: list[int]) -> None:
        """Registers for events and for the end of the connections.

        Drivers without a daemon (test, embedded) have no end.
        """
        try:
            for connection in (self._connection, self._second):
                connection.registerCloseCallback(self._on_close, None)
                connection.setKeepAlive(*_KEEPALIVE)
        except libvirt.libvirtError as error:
            log.debug("no keepalive: %s", error)
        for event in _EVENTS:
            try:
                registered.append(self._second.domainEventRegisterAny(None, event, self._on_event, None))
            except libvirt.libvirtError as error:
                log.debug("no events of kind %s: %s", event, error)

    def _on_close(self, _connection: Any, _reason: int, _opaque: Any) -> None:
        self._closed = True
        self._lost()
        self._changed.put("")

    def _on_event(self, _connection: Any, domain: Any, *_details: Any) -> None:
        uuid = domain.UUIDString()
        self._second_handles[uuid] = domain
        self._changed.put(uuid)

    def _await_change(self, until: float) -> set[str]:
        """The uuids of changed domains; empty if none changes before ``until``, when it is time to list anyway."""
        try:
            changed = {self._changed.get(timeout=max(_GATHER_SECONDS, until - self._clock.monotonic()))}
        except Empty:
            return set()
        time.sleep(_GATHER_SECONDS)
        while True:
            try:
                changed.add(self._changed.get_nowait())
            except Empty:
                return changed

    def _list(self, changed: set[str], now: float) -> None:
        try:
            listed = self._questions.ask(_LIST, lambda: _states(self._connection))
        except HeldUpError:
            self._list_one_by_one(changed, now)
            return
        self._handles = {handle.UUIDString(): handle for handle, _ in listed}
        self._domains = {handle.UUIDString(): _domain(handle, stats) for handle, stats in listed}
        self._answered_at = dict.fromkeys(self._handles, now)
        self._learn_second_handles()
        changed, self._missed = changed | self._missed, set()
        self._show(changed, now)

    def _learn_second_handles(self) -> None:
        if not self._handles.keys() <= self._second_handles.keys():
            with suppress(HeldUpError):
                for handle, _ in self._second_questions.ask(_SECOND_LIST, lambda: _states(self._second)):
                    self._second_handles[handle.UUIDString()] = handle
        for uuid in list(self._second_handles):
            if uuid not in self._handles:
                del self._second_handles[uuid]

    @staticmethod
    def _state(handle: Any) -> list[tuple[Any, Mapping[str, Any]]]:
        """The domain and its state; empty if libvirt does not know it."""
        listed: list[tuple[Any, Mapping[str, Any]]] = handle.connect().domainListGetStats(
            [handle], libvirt.VIR_DOMAIN_STATS_STATE, libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
        )
        return listed

    def _list_one_by_one(self, changed: set[str], now: float) -> None:
        """Asks for each domain by itself. If libvirt answers nothing at all, or never gave a list, there is none."""
        self._missed |= changed
        if not self._answered_at:
            self._complain("libvirt holds a domain locked, so it gives no list of its domains yet")
            return
        try:
            self._second_questions.ask(_PING, self._second.getLibVersion)
        except HeldUpError:
            return
        for uuid in sorted({*self._domains, *self._missed}):
            found = self._look(uuid, self._state)
            if found is HELD:
                continue
            for handle, stats in found:
                self._domains[uuid], self._answered_at[uuid] = _domain(handle, stats), now
            if not found:
                for known in (self._domains, self._handles, self._answered_at, self._second_handles):
                    known.pop(uuid, None)
        self._show(set(self._missed), now)

    def _look(self, uuid: str, question: Callable[[Any], _T]) -> _T | Literal[Held.HELD]:
        """The answer about one domain; HELD if there is none now.

        Asks over the second connection, or over the first one if only that has listed the domain.
        """
        if uuid in self._second_handles:
            handle, questions = self._second_handles[uuid], self._second_questions
        elif uuid in self._handles:
            handle, questions = self._handles[uuid], self._questions
        else:
            return HELD
        try:
            return questions.ask(uuid, lambda: question(handle))
        except (HeldUpError, libvirt.libvirtError, *UNREADABLE) as error:
            log.debug("libvirt does not answer about domain %s: %r", uuid, error)
            return HELD

    def _show(self, changed: set[str], now: float) -> None:
        """Publishes the domains with their facts."""
        domains: list[Domain] = []
        facts_from: dict[str, float] = {}
        for uuid, domain in self._domains.items():
            life = (domain.name, domain.id)
            held = self._answered_at[uuid] < now
            current = not held and self._read_facts(uuid, life, now, again=uuid in changed)
            known = self._facts.get(uuid)
            same = known is not None and known[0] == life
            domains.append(replace(domain, facts=known[2]) if known and same else domain)
            if not current:
                facts_from[uuid] = known[1] if known and same else now
        self._facts = {uuid: facts for uuid, facts in self._facts.items() if uuid in self._domains}
        domains.sort(key=lambda domain: (domain.name, domain.uuid))
        held_since = {uuid: at for uuid, at in self._answered_at.items() if at < now}
        inventory = Inventory(
            self._host, tuple(domains), self._forwards(domains, now), now, held_since=held_since, facts_from=facts_from
        )
        self._take(inventory, {uuid: handle for uuid, handle in self._handles.items() if uuid not in held_since})

    def _read_facts(self, uuid: str, life: tuple[str, int], now: float, *, again: bool) -> bool:
        """Reads a domain's XML, if it is time for it. Whether its facts are current then."""
        known = self._facts.get(uuid)
        lasts = _FACTS_SECONDS * (1 + int(uuid[:2], 16) / 512)  # spread, so that not all fall due in one list
        if known and known[0] == life and not again and now - known[1] < lasts:
            return True
        xml = self._look(uuid, lambda handle: text_of(lambda: handle.XMLDesc(0)))
        if xml is HELD:  # or it ended between the list and this call
            return False
        try:
            self._facts[uuid] = (life, now, domain_facts(xml))
        except (ParseError, ValueError) as error:
            self._complain(f"the XML of domain {life[0]} cannot be read: {error}")
            return False
        return True

    def _forwards(self, domains: Sequence[Domain], now: float) -> dict[str, Forward]:
        names = {nic.network for domain in domains for nic in domain.facts.nics if nic.network}
        for name in names:
            if name not in self._networks or now - self._networks[name][0] > _FACTS_SECONDS:
                self._networks[name] = (now, self._forward(name))
        return {name: self._networks[name][1] for name in names}

    def _forward(self, name: str) -> Forward:
        try:
            return network_forward(
                self._second_questions.ask(
                    f"network {name}", lambda: text_of(lambda: self._second.networkLookupByName(name).XMLDesc(0))
                )
            )
        except (libvirt.libvirtError, HeldUpError, ParseError, ValueError, *UNREADABLE) as error:
            log.debug("no XML of network %s: %s", name, error)
            return self._networks[name][1] if name in self._networks else Forward()

    def _keep_host(self) -> None:
        """Reads what the host is, and again each minute while something of it is missing."""
        while not self._closed:
            try:
                self._host, complete = _host_facts(self._second, self._host, self._complain)
            except libvirt.libvirtError as error:
                log.debug("nothing is known of the host: %s", error)
                complete = False
            self._host_read.set()
            if complete:
                return
            time.sleep(_FACTS_SECONDS)

    def _complain(self, reason: str) -> None:
        reason = shortened(reason)
        if reason not in self._complaints and len(self._complaints) < _MOST_COMPLAINTS:
            self._complaints.add(reason)
            log.warning("%s", reason)


def _states(connection: Any) -> list[tuple[Any, Mapping[str, Any]]]:
    """All domains with their states."""
    listed: list[tuple[Any, Mapping[str, Any]]] = connection.getAllDomainStats(
        libvirt.VIR_DOMAIN_STATS_STATE, libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
    )
    return listed


def _domain(handle: Any, stats: Mapping[str, Any]) -> Domain:
    return Domain(
        uuid=handle.UUIDString(),
        name=text_of(handle.name),
        id=handle.ID(),
        state=stats.get("state.state", 0),
        reason=stats.get("state.reason", 0),
    )


def _host_facts(connection: Any, last: HostFacts, complain: Callable[[str], None]) -> tuple[HostFacts, bool]:
    """What the host is, each fact by itself, and whether all are known. What libvirt cannot say stays as it was."""
    complete = True

    def ask(what: str, question: Callable[[], _T]) -> _T | None:
        nonlocal complete
        try:
            return question()
        except (
            libvirt.libvirtError,
            ParseError,
            ValueError,
            *UNREADABLE,
        ) as error:  # QEMU is being upgraded, or is not in its usual place
            complain(f"libvirt answers, but not about {what}: {error}")
            complete = False
            return None

    hostname = ask("the host's name", lambda: text_of(connection.getHostname))
    cpu = ask("the host's capabilities", lambda: host_cpu(text_of(connection.getCapabilities)))
    kind = ask("its driver", lambda: text_of(connection.getType)) or last.hypervisor.partition(" ")[0]
    version = ask("the hypervisor's version", lambda: _version(connection.getVersion()))
    library = ask("its own version", lambda: _version(connection.getLibVersion()))
    host_uuid, cpu_model, arch = cpu or (last.host_uuid, last.cpu_model, last.arch)
    facts = HostFacts(
        hostname=hostname or last.hostname,
        host_uuid=host_uuid,
        cpu_model=cpu_model,
        arch=arch,
        hypervisor=f"{kind} {version}" if version else last.hypervisor or kind,
        libvirt_version=library or last.libvirt_version,
    )
    return facts, complete


def _version(number: int) -> str:
    """libvirt packs a version as major * 1,000,000 + minor * 1,000 + release."""
    return f"{number // 1_000_000}.{number // 1_000 % 1_000}.{number % 1_000}"


def _quietly(action: Callable[..., Any], *arguments: Any) -> None:
    """Runs an action that frees a connection, which may be dead already."""
    try:
        action(*arguments)
    except libvirt.libvirtError as error:
        log.debug("while closing: %s", error)
