"""What the hosts' libvirt daemons say of hosts and domains, looked at beside the cycles and remembered.

A look at a host reads the live descriptions of its domains. It is made when the host is new, when a domain has come to
it, and once in an hour; each kind of hardware is asked about once for each host (docs/decisions/0047).
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Collection, Mapping, Set
from dataclasses import dataclass, field, replace

import structlog
from pydantic import TypeAdapter, ValidationError

from virtpoise_balancer.clock import SYSTEM, Clock
from virtpoise_balancer.errors import LibvirtError, VirtpoiseError
from virtpoise_balancer.execute.facts import Hardware, HostFacts
from virtpoise_balancer.execute.hosts import Hosts
from virtpoise_balancer.execute.incompatible import HostRecord, judge
from virtpoise_balancer.model import Facts
from virtpoise_balancer.threads import THREADS, Threads

log = structlog.get_logger()

# How long what a host said counts as new; after a failure, when it is asked again.
_AGAIN_SECONDS = 3600.0
_AFTER_FAILURE_SECONDS = 300.0
# How long after a look a domain that it did not show has the host looked at again.
_NEWCOMER_SECONDS = 30.0
# How many hosts are looked at side by side. A look takes some 50 ms of CPU time of this machine.
_LANES = 4

_RECORD = TypeAdapter(HostRecord)


def facts_of(documents: Mapping[str, str]) -> Facts:
    """What stands against migrations by what was remembered. ``documents``: by host, as ``Inventory`` remembers it."""
    return judge(_unpack(documents))


def _unpack(documents: Mapping[str, str]) -> dict[str, HostRecord]:
    """One that cannot be read, such as that of another version, is left out: the host is looked at again."""
    records = {}
    for host, document in documents.items():
        try:
            records[host] = _RECORD.validate_json(document)
        except ValidationError:
            continue
    return records


@dataclass(slots=True)
class Inventory:
    """``remember`` takes a host and a document; ``recall`` gives the documents of all hosts. Both may raise
    VirtpoiseError: then only this process knows.
    """

    hosts: Callable[[], Hosts]
    remember: Callable[[str, str], None] = lambda _host, _document: None
    recall: Callable[[], Mapping[str, str]] = dict
    clock: Clock = SYSTEM
    threads: Threads = THREADS
    _records: dict[str, HostRecord] = field(default_factory=dict)
    _again_at: dict[str, float] = field(default_factory=dict)  # when a host is due, monotonic
    _queue: dict[str, None] = field(default_factory=dict)  # hosts to be looked at, in order
    _lanes: int = 0
    _recalled: dict[str, str] | None = None  # documents of hosts that were not in the group yet
    _facts: Facts | None = None  # None: to be judged anew
    _kinds: dict[str, Hardware] = field(default_factory=dict)  # of all domains, by key; each is kept once
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def facts(self, hosts: Collection[str] = ()) -> Facts:
        """What stands against migrations, by all that is known now. ``hosts``: of the group; none: those of before."""
        with self._lock:
            self._begin()
            if hosts:
                self._keep_only(hosts)
            if self._facts is None:
                self._facts = judge(self._records)
            return self._facts

    def keep_up(self, seen: Mapping[str, Collection[str]]) -> None:
        """Have looked at, beside the caller, what is not known. ``seen``: by host that answers, the uuids of its
        running domains.
        """
        with self._lock:
            self._begin()
            kinds = self._kinds.keys()
            now = self.clock.monotonic()
            for host in sorted(seen):
                if host not in self._queue and self._is_due(host, seen[host], kinds, now):
                    self._queue[host] = None
            lanes = min(len(self._queue), _LANES) - self._lanes
            self._lanes += max(lanes, 0)
        for _ in range(lanes):
            self.threads.start(self._drain, "look at hosts")

    def look(self, host: str) -> HostRecord:
        """Look at the host now, and keep what it says. LibvirtError."""
        hosts = self.hosts()
        facts = hosts.facts(host)
        with self._lock:
            before = self._records.get(host)
            facts = self._shared(facts)
            kinds = dict(self._kinds)
        # A host that has become another one, by an upgrade or by its firmware, is asked anew.
        same = before is not None and _is_same(before, facts)
        known = {key: one for key, one in before.verdicts.items() if key in kinds} if before and same else {}
        asked = sorted(kinds.keys() - known.keys())
        answers = hosts.verdicts(host, [kinds[key] for key in asked]) if asked else ()
        record = HostRecord(at=self.clock.now(), facts=facts, verdicts=known | dict(zip(asked, answers, strict=True)))
        self._keep(host, record)
        return record

    # ------------------------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        if self._recalled is None:
            with contextlib.suppress(VirtpoiseError):  # the next call tries again
                self._recalled = dict(self.recall())

    def _keep_only(self, hosts: Collection[str]) -> None:
        """Forget the hosts that are not in the group, and take up what was remembered of those that are."""
        for host in self._records.keys() - set(hosts):
            del self._records[host]
            self._facts = None
        recalled = self._recalled or {}
        documents = {host: recalled.pop(host) for host in hosts if host in recalled and host not in self._records}
        for host, record in _unpack(documents).items():
            self._records[host] = replace(record, facts=self._shared(record.facts))
            left = min(max(record.at + _AGAIN_SECONDS - self.clock.now(), 0.0), _AGAIN_SECONDS)
            self._again_at[host] = self.clock.monotonic() + left
            self._facts = None

    def _is_due(self, host: str, uuids: Collection[str], kinds: Set[str], now: float) -> bool:
        record = self._records.get(host)
        again_at = self._again_at.get(host, now)
        if now >= again_at:
            return True
        if record is None or now < again_at - _AGAIN_SECONDS + _NEWCOMER_SECONDS:
            return False  # it failed, and waits, or was looked at just now
        known = {domain.uuid for domain in record.facts.domains}
        return not known.issuperset(uuids) or not record.verdicts.keys() >= kinds

    def _drain(self) -> None:
        while (host := self._next()) is not None:
            failed = False
            try:
                self.look(host)
            except LibvirtError as error:
                failed = True
                log.debug("a host's facts are not known", host=host, why=str(error))
            except Exception:
                failed = True
                log.exception("a host's facts are not known for an unforeseen reason", host=host)
            if failed:
                with self._lock:
                    self._again_at[host] = self.clock.monotonic() + _AFTER_FAILURE_SECONDS

    def _next(self) -> str | None:
        with self._lock:
            host = next(iter(self._queue), None)
            if host is None:
                self._lanes -= 1
            else:
                del self._queue[host]
            return host

    def _shared(self, facts: HostFacts) -> HostFacts:
        """The facts, with one value for each kind of hardware: a CPU's definition takes some KiB."""
        domains = tuple(
            domain
            if domain.hardware is None
            else replace(domain, hardware=self._kinds.setdefault(domain.hardware.key, domain.hardware))
            for domain in facts.domains
        )
        return replace(facts, domains=domains)

    def _keep(self, host: str, record: HostRecord) -> None:
        with self._lock:
            before = self._records.get(host)
            self._records[host] = record
            self._again_at[host] = self.clock.monotonic() + _AGAIN_SECONDS
            if before is not None and replace(before, at=record.at) == record:
                return
            self._facts = None
        try:
            self.remember(host, _RECORD.dump_json(record).decode())
        except VirtpoiseError as error:
            log.debug("a host's facts could not be remembered", host=host, why=str(error))


def _is_same(before: HostRecord, facts: HostFacts) -> bool:
    return all(
        getattr(before.facts, name) == getattr(facts, name)
        for name in ("libvirt_version", "hypervisor_version", "cpu", "machines")
    )
