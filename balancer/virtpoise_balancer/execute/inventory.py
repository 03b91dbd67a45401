"""What the hosts' libvirt daemons report of hosts and domains, read beside the cycles and remembered.

A look at a host reads the live descriptions of its domains. It is made when the host is new, when a domain has come to
it, and once in an hour, or sooner where what it lacked stands in the way of a plan; each kind of hardware is asked
about once for each host (docs/decisions/0047).
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import partial

import structlog
from pydantic import TypeAdapter, ValidationError

from virtpoise_balancer.analyse.membership import Machine
from virtpoise_balancer.clock import SYSTEM, Clock
from virtpoise_balancer.errors import LibvirtError, VirtpoiseError
from virtpoise_balancer.execute.facts import Bound, Hardware, HardwareVerdict, HostFacts
from virtpoise_balancer.execute.hosts import Hosts
from virtpoise_balancer.execute.incompatible import HostRecord, judge
from virtpoise_balancer.execute.lanes import Lanes, Work
from virtpoise_balancer.model import Facts, Move
from virtpoise_balancer.threads import THREADS, Threads

log = structlog.get_logger()

# How long what a host said counts as new; after a failure, when it is asked again.
_AGAIN_SECONDS = 3600.0
_AFTER_FAILURE_SECONDS = 300.0
# How long after a look a domain that it did not show has the host looked at again.
_NEWCOMER_SECONDS = 30.0
# After which time a host whose domain is busy with a job is read again.
_BUSY_SECONDS = 60.0
# After which time one that lacked what a plan would need is: a network may have been restarted, a file be gone.
_LACKING_SECONDS = 120.0
# Before a move: how old what its hosts said may be where moves are made and where they are recommended, for how long
# they are waited for in all, and how many are asked side by side.
_NEW_SECONDS = 30.0
_NEW_TO_RECOMMEND_SECONDS = 600.0
_MOST_WAIT_SECONDS = 2.0
_LANES_NOW = 16
# How many hosts are read at the same time where no one waits. A look takes some 50 ms of CPU time of this machine.
_LANES = 4

_RECORD = TypeAdapter(HostRecord)


def facts_of(documents: Mapping[str, str]) -> Facts:
    """What stands against migrations by what was remembered. ``documents``: by host, as ``Inventory`` remembers it."""
    return judge(_unpack(documents))


def _unpack(documents: Mapping[str, str]) -> dict[str, HostRecord]:
    """The records in the documents, by host. One that cannot be read, such as that of another version, is left out."""
    records = {}
    for host, document in documents.items():
        try:
            records[host] = _RECORD.validate_json(document)
        except ValidationError:
            continue
    return records


@dataclass(slots=True)
class Inventory:
    """Keeps what the hosts' libvirt daemons report.

    ``remember`` takes a host and a document; ``recall`` gives the documents of all hosts. Both may raise
    VirtpoiseError: then only this process knows.
    """

    hosts: Callable[[], Hosts]
    remember: Callable[[str, str], None] = lambda _host, _document: None
    recall: Callable[[], Mapping[str, str]] = dict
    clock: Clock = SYSTEM
    threads: Threads = THREADS
    _records: dict[str, HostRecord] = field(default_factory=dict)
    _asked_at: dict[str, float] = field(default_factory=dict)  # when a host was last asked, monotonic
    _failed: set[str] = field(default_factory=set)  # hosts that did not answer then
    _asking: dict[str, float] = field(default_factory=dict)  # by host that is asked: until when it is waited for
    _asked_images: dict[str, set[str]] = field(default_factory=dict)  # by host, since it was looked at
    _doubted: frozenset[str] = frozenset()  # hosts that are to be looked at sooner
    _queue: dict[str, None] = field(default_factory=dict)  # hosts to be looked at, in order
    _lanes: Lanes = field(init=False)
    _recalled: dict[str, str] | None = None  # documents of hosts that were not in the group yet
    _facts: Facts | None = None  # None: to be judged again
    _kinds: dict[str, Hardware] = field(default_factory=dict)  # of all domains, by key; each is kept once
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        self._lanes = Lanes(self._next, _LANES, "look at hosts", self.threads)

    def facts(self, hosts: Collection[str] = ()) -> Facts:
        """What stands against migrations, by all that is known now. ``hosts``: of the group; none: those of before."""
        with self._lock:
            self._begin()
            if hosts:
                self._keep_only(hosts)
            if self._facts is None:
                self._facts = judge(self._records)
            return self._facts

    def machines(self) -> dict[str, Machine]:
        """Which machine each host is, by what was said at its last look."""
        with self._lock:
            records = {host: record.facts for host, record in self._records.items()}
        return {
            host: Machine(uuid=facts.uuid, domains=frozenset(domain.uuid for domain in facts.domains))
            for host, facts in records.items()
            if facts.uuid
        }

    def keep_up(self, seen: Mapping[str, Collection[str]]) -> None:
        """Read what is not known yet, in threads of its own. ``seen``: by host that answers, the uuids of its
        running domains.
        """
        with self._lock:
            self._begin()
            kinds = self._kinds.keys()
            now = self.clock.monotonic()
            for host in sorted(seen):
                if host not in self._queue and self._is_due(host, seen[host], kinds, now):
                    self._queue[host] = None
            waiting = len(self._queue)
        self._lanes.begin(waiting)

    def doubt(self) -> None:
        """Let the next ``keep_up`` and later ones read all hosts again."""
        with self._lock:
            self._asked_at.clear()
            self._failed.clear()

    def look_soon(self, hosts: Collection[str]) -> None:
        """Let ``keep_up`` look at these hosts sooner than at others, until the next call."""
        self._doubted = frozenset(hosts)

    def ask(self, moves: Sequence[Move], *, skip: Collection[str], acts: bool) -> None:
        """Ask both hosts of each move, unless what they said is new enough. Returns within a bounded time.

        A host that hangs is waited for once, not again before it has answered.

        ``skip``: hosts that do not answer. ``acts``: the moves are about to be made.
        """
        wanted: dict[str, set[str]] = {}
        for move in moves:
            wanted.setdefault(move.source, set()).add(move.uuid)
            wanted.setdefault(move.destination, set())
        now, newer = self.clock.monotonic(), _NEW_SECONDS if acts else _NEW_TO_RECOMMEND_SECONDS
        with self._lock:
            due = {
                host: uuids
                for host, uuids in wanted.items()
                if host not in skip
                and now - self._asked_at.get(host, -math.inf)
                >= (_AFTER_FAILURE_SECONDS if host in self._failed else newer)
            }
        until = self.clock.monotonic() + _MOST_WAIT_SECONDS
        self._side_by_side(list(due), lambda host: self._try(host, partial(self.look, doubted=due[host])), until)
        # Both hosts are known only now, and so whether the one was asked for the hardware of the other's domain.
        lacking = sorted({move.destination for move in moves if self._lacks_verdict(move)} - set(skip))
        self._side_by_side(lacking, lambda host: self._try(host, self._complete), until)
        unseen = {host: images for host, images in self._unseen(moves).items() if host not in skip}
        self._side_by_side(unseen, lambda host: self._ask_for(host, unseen[host]), until)

    def look_again(self, hosts: Collection[str]) -> None:
        """Look at these hosts now: something went otherwise than expected. Returns within a bounded time."""
        until = self.clock.monotonic() + _MOST_WAIT_SECONDS
        self._side_by_side(hosts, lambda host: self._try(host, partial(self.look, doubted=self._uuids_on(host))), until)

    def _uuids_on(self, host: str) -> Collection[str]:
        record = self._records.get(host)
        return [domain.uuid for domain in record.facts.domains] if record else ()

    def look(self, host: str, doubted: Collection[str] = ()) -> HostRecord:
        """Look at the host now, and keep what it says. LibvirtError.

        ``doubted``: domains of which libvirt is asked again whether they may leave.
        """
        hosts = self.hosts()
        facts = self._shared(hosts.facts(host))
        before, kinds = self._records.get(host), self._known_kinds()
        # A host that has become another one, by an upgrade or by its firmware, is asked again.
        same = before is not None and _is_same(before, facts)
        known = {key: one for key, one in before.verdicts.items() if key in kinds} if before and same else {}
        words = {uuid: word for uuid, word in _still_said(before, facts).items() if uuid not in doubted}
        silent = [domain.uuid for domain in facts.domains if domain.uuid and domain.uuid not in words]
        copyable = {one.uuid: [disk.device for disk in one.copyable] for one in facts.domains if one.copyable}
        record = HostRecord(
            at=self.clock.now(),
            facts=facts,
            verdicts=known | self._verdicts(host, kinds, known),
            words={**words, **(hosts.leaving(host, silent, copyable) if silent else {})},
            images=self._present(host, self._wanted(before.images)) if before and before.images else {},
        )
        with self._lock:
            self._asked_images[host] = set(record.images)
        self._keep(host, record)
        return record

    # ------------------------------------------------------------------------------------------------------------------

    def _complete(self, host: str) -> None:
        """Ask the host for the kinds of hardware that it was not asked for."""
        record = self._records[host]
        more = self._verdicts(host, self._known_kinds(), record.verdicts)
        self._keep(host, replace(record, verdicts={**record.verdicts, **more}))

    def _unseen(self, moves: Sequence[Move]) -> dict[str, set[str]]:
        """By destination of a move, the images of its domains for which it was not asked since it was looked at."""
        found: dict[str, set[str]] = {}
        with self._lock:
            for move in moves:
                here = self._records.get(move.source)
                if here is None or move.destination not in self._records:
                    continue
                asked = self._asked_images.get(move.destination, set())
                images = {one for domain in here.facts.domains if domain.uuid == move.uuid for one in domain.images}
                if images - asked:
                    found.setdefault(move.destination, set()).update(images - asked)
        return found

    def _ask_for(self, host: str, images: Collection[str]) -> None:
        """Ask the host whether it has these images."""
        answers = self._present(host, images)
        with self._lock:
            self._asked_images.setdefault(host, set()).update(images)
            record = self._records.get(host)
        if record is not None and answers:
            self._keep(host, replace(record, images={**record.images, **answers}))

    def _present(self, host: str, images: Collection[str]) -> Mapping[str, bool]:
        """The host's word on whether it has these images; none where it does not answer: its storage may hang."""
        with contextlib.suppress(LibvirtError):
            return self.hosts().present(host, sorted(images)) if images else {}
        return {}

    def _wanted(self, images: Collection[str]) -> set[str]:
        """Those of the images that a domain of the group has."""
        with self._lock:
            domains = [domain for record in self._records.values() for domain in record.facts.domains]
        return {image for domain in domains for image in domain.images if image in images}

    def _verdicts(
        self, host: str, kinds: Mapping[str, Hardware], known: Mapping[str, HardwareVerdict]
    ) -> dict[str, HardwareVerdict]:
        """What the host reports on those of the kinds that are not known, by key."""
        asked = sorted(kinds.keys() - known.keys())
        answers = self.hosts().verdicts(host, [kinds[key] for key in asked]) if asked else ()
        return dict(zip(asked, answers, strict=True))

    def _known_kinds(self) -> dict[str, Hardware]:
        with self._lock:
            return dict(self._kinds)

    def _lacks_verdict(self, move: Move) -> bool:
        """Whether both hosts are known, but not whether the one has the hardware of the other's domain."""
        with self._lock:
            here, there = self._records.get(move.source), self._records.get(move.destination)
        if here is None or there is None:
            return False
        of_domain = next((domain.hardware for domain in here.facts.domains if domain.uuid == move.uuid), None)
        return of_domain is not None and of_domain.key not in there.verdicts

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
            age = max(self.clock.now() - record.at, 0.0)
            self._asked_at[host] = self.clock.monotonic() - age
            self._facts = None

    def _is_due(self, host: str, uuids: Collection[str], kinds: Set[str], now: float) -> bool:
        record = self._records.get(host)
        age = now - self._asked_at.get(host, -math.inf)
        if host in self._failed or record is None:
            return age >= _AFTER_FAILURE_SECONDS
        if age >= (_BUSY_SECONDS if record.is_busy else _AGAIN_SECONDS):
            return True
        if host in self._doubted and age >= _LACKING_SECONDS:
            return True
        if age < _NEWCOMER_SECONDS:
            return False
        known = {domain.uuid for domain in record.facts.domains}
        return not known.issuperset(uuids) or not record.verdicts.keys() >= kinds

    def _try(self, host: str, ask: Callable[[str], object]) -> None:
        """Ask the host, and note whether it answers."""
        failed = True
        try:
            ask(host)
            failed = False
        except LibvirtError as error:
            tell = log.debug if host in self._failed else log.warning  # once: until then moves may be planned in vain
            tell("a host's facts are not known", host=host, why=str(error))
        except Exception:
            log.exception("a host's facts could not be read", host=host)
        with self._lock:
            self._asked_at[host] = self.clock.monotonic()
            (self._failed.add if failed else self._failed.discard)(host)

    def _side_by_side(self, hosts: Collection[str], ask: Callable[[str], None], until: float) -> None:
        """Ask these hosts, and return when all have answered or the time is up (monotonic).

        Not those that were waited for in vain and have not answered yet.
        """
        now = self.clock.monotonic()
        with self._lock:
            waiting = [host for host in hosts if now < self._asking.get(host, math.inf)]

        def ask_one(host: str) -> None:
            with self._lock:
                self._asking.setdefault(host, until)
            try:
                ask(host)
            finally:
                with self._lock:
                    self._asking.pop(host, None)

        def take() -> Work | None:
            return partial(ask_one, waiting.pop(0)) if waiting and self.clock.monotonic() < until else None

        lanes = Lanes(take, _LANES_NOW, "look at hosts", self.threads)
        lanes.begin(len(waiting))
        for ended in lanes.running():
            ended.wait(max(until - self.clock.monotonic(), 0.0))

    def _next(self) -> Work | None:
        with self._lock:
            host = next(iter(self._queue), None)
            if host is None:
                return None
            del self._queue[host]
            return partial(self._try, host, self.look)

    def _shared(self, facts: HostFacts) -> HostFacts:
        """The facts, with one value for each kind of hardware: a CPU's definition takes some KiB."""
        with self._lock:
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
            if before is not None and replace(before, at=record.at) == record:
                return
            self._facts = None
        try:
            self.remember(host, _RECORD.dump_json(record).decode())
        except VirtpoiseError as error:
            log.debug("a host's facts could not be remembered", host=host, why=str(error))


def _still_said(before: HostRecord | None, facts: HostFacts) -> dict[str, Bound | None]:
    """The domains that may leave as they did at the look before: those that are what they were then."""
    if before is None:
        return {}
    then = {domain.uuid: replace(domain, copyable=()) for domain in before.facts.domains}
    return {
        domain.uuid: None
        for domain in facts.domains
        if replace(domain, copyable=()) == then.get(domain.uuid) and before.words.get(domain.uuid, domain) is None
    }


def _is_same(before: HostRecord, facts: HostFacts) -> bool:
    return all(
        getattr(before.facts, name) == getattr(facts, name) for name in ("libvirt_version", "hypervisor_version", "cpu")
    )
