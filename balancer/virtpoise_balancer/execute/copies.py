"""Domains that Prometheus shows on more than one host, whoever put them there. Their hosts' own libvirt is
asked, and its answer counts.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import partial

import structlog

from virtpoise_balancer.execute.hosts import Hosts
from virtpoise_balancer.execute.lanes import Lanes, Work
from virtpoise_balancer.execute.questions import confirmed, descriptions, presence
from virtpoise_balancer.execute.verdict import SETTLED, Answer, Silent
from virtpoise_balancer.model import Unsettled, UnsettledKind
from virtpoise_balancer.threads import THREADS, Threads

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class SeenTwice:
    """A domain and the hosts that all seem to run it.

    ``expected``: samples may still show it where a migration of ours took it from. Then only an answer of the hosts
    makes it unsettled.
    """

    domain: str
    hosts: tuple[str, ...]
    expected: bool = False


# How many groups of hosts are asked side by side. A question takes a process that calls libvirt.
_LANES = 4
# A host that contradicts more others than this is not believed against them: one that is wrong keeps few others from
# being acted on (decision 54).
_MOST_CONTRADICTED = 2
# After this number of unanswered questions about domains a host is asked no more of them in the same turn.
_MOST_SILENT = 3


@dataclass(slots=True)
class Copies:
    """Finds out where domains really run that Prometheus shows on several hosts.

    ``hosts``: as configured now. Everything is keyed by the domain's uuid. Exporters say what is seen twice, and a
    hostile one may say it of any domain. So few questions are asked side by side, and one at a time of each host.
    """

    hosts: Callable[[], Hosts]
    threads: Threads = THREADS
    _seen: dict[str, SeenTwice] = field(default_factory=dict)
    _answers: dict[str, Mapping[str, Answer]] = field(default_factory=dict)
    _described: dict[str, str] = field(default_factory=dict)  # what distinguishes those that are active twice
    _waiting: dict[tuple[str, ...], list[str]] = field(default_factory=dict)  # domains to be asked about, by hosts
    _asking: set[str] = field(default_factory=set)  # domains that are being asked about
    _busy: set[str] = field(default_factory=set)  # their hosts
    _lanes: Lanes = field(init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._lanes = Lanes(self._next, _LANES, "look for copies", self.threads)

    def keep_up(self, seen: Mapping[str, SeenTwice]) -> None:
        """Ask, beside the cycle, about the domains seen twice now, and those that were active twice at their hosts'
        last answers.
        """
        with self._lock:
            standing = {uuid: one for uuid, one in self._seen.items() if _active(self._answers.get(uuid, {})) > 1}
            self._seen = standing | dict(seen)
            self._answers = {uuid: answers for uuid, answers in self._answers.items() if uuid in self._seen}
            self._described = {uuid: words for uuid, words in self._described.items() if uuid in self._seen}
            self._waiting = {}
            for uuid, one in self._seen.items():
                if uuid not in self._asking:
                    self._waiting.setdefault(one.hosts, []).append(uuid)
            waiting = len(self._waiting)
        self._lanes.begin(waiting)

    def unsettled(self) -> tuple[Unsettled, ...]:
        """Those that are active twice, or not known to be active once where that is not expected."""
        with self._lock:
            found = [
                (uuid, one, self._answers.get(uuid), self._described.get(uuid, "")) for uuid, one in self._seen.items()
            ]
        open_ones = [one for one in found if not _is_cleared(one[2]) and not (one[1].expected and one[2] is None)]
        doubted = _doubted([(one.hosts, answers) for _, one, answers, _ in open_ones if answers is not None])
        return tuple(_unsettled(uuid, one, answers, words, doubted) for uuid, one, answers, words in open_ones)

    def wait(self, seconds: float) -> None:
        """Wait until all that is being asked has been answered, for ``seconds`` at most each."""
        for ended in self._lanes.running():
            ended.wait(seconds)

    def _next(self) -> Work | None:
        """Asks the next free hosts about the domains that they seem to run."""
        with self._lock:
            places = next((places for places in self._waiting if self._busy.isdisjoint(places)), None)
            if places is None:
                return None
            uuids = self._waiting.pop(places)
            self._busy.update(places)
            self._asking.update(uuids)
            return partial(self._ask_beside, places, uuids)

    def _ask_beside(self, places: tuple[str, ...], uuids: list[str]) -> None:
        try:
            self._ask(places, uuids)
        except Exception:  # the next cycle asks again
            log.exception("hosts that seem to run the same domains could not be asked", hosts=list(places))
        finally:
            with self._lock:
                self._busy.difference_update(places)
                self._asking.difference_update(uuids)

    def _ask(self, places: tuple[str, ...], uuids: list[str]) -> None:
        """The hosts are asked about one domain right after each other, since it may be on its way."""
        hosts = self.hosts()
        silent: dict[str, list[Silent]] = {place: [] for place in places}
        for uuid in uuids:
            answers: dict[str, Answer] = {}
            for place, unanswered in silent.items():
                enough = len(unanswered) == _MOST_SILENT
                answer = answers[place] = unanswered[-1] if enough else presence(hosts, place, uuid)
                if isinstance(answer, Silent) and not enough:
                    unanswered.append(answer)
            answers = confirmed(hosts, answers, uuid)
            running = [place for place, answer in answers.items() if answer in SETTLED]
            words = descriptions(hosts, running, uuid) if len(running) > 1 else ""
            with self._lock:
                one = self._seen.get(uuid)
                if one is not None:
                    self._answers[uuid] = answers
                    self._described[uuid] = words
            if one is not None and len(running) > 1:
                log.error("a domain runs on more than one host", domain=one.domain, uuid=uuid, hosts=list(places))


def _active(answers: Mapping[str, Answer]) -> int:
    return sum(answer in SETTLED for answer in answers.values())


def _is_cleared(answers: Mapping[str, Answer] | None) -> bool:
    """Whether the hosts have denied it."""
    if answers is None or any(isinstance(answer, Silent) for answer in answers.values()):
        return False
    return _active(answers) <= 1


def _doubted(seen: Collection[tuple[tuple[str, ...], Mapping[str, Answer]]]) -> set[str]:
    """The hosts that are not believed: each seems to run domains of many others, which say that they run them.

    ``seen``: the hosts of each domain, and their answers. The host that contradicts most others is doubted first, and
    no longer held against these.
    """
    doubted: set[str] = set()
    while True:
        contradicted: dict[str, set[str]] = {}
        for hosts, answers in seen:
            for host in hosts if doubted.isdisjoint(hosts) else ():
                others = [other for other in hosts if other != host]
                if all(answers.get(other) in SETTLED for other in others):
                    contradicted.setdefault(host, set()).update(others)
        most = max(map(len, contradicted.values()), default=0)
        if most <= _MOST_CONTRADICTED:
            return doubted
        doubted |= {host for host, others in contradicted.items() if len(others) == most}


def _unsettled(
    uuid: str, one: SeenTwice, answers: Mapping[str, Answer] | None, words: str, doubted: AbstractSet[str]
) -> Unsettled:
    """What keeps the domain's hosts from being acted on; only the ``doubted`` ones, if the others report that they run
    it.
    """
    places = " and ".join(one.hosts)
    kind, text = UnsettledKind.UNKNOWN, f"{one.domain} is seen running on {places}, and not all of them have been asked"
    if answers is not None:
        silent = [host for host, answer in answers.items() if isinstance(answer, Silent)]
        text = f"{one.domain} is seen running on {places}; no answer from {', '.join(silent)}"
        if _active(answers) > 1:
            active = " and ".join(f"{host} ({answer})" for host, answer in answers.items() if answer in SETTLED)
            kind, text = UnsettledKind.TWICE, f"{one.domain} is active on {active} at once. {words}"
    hosts = one.hosts
    if answers is not None and all(answers.get(host) in SETTLED for host in hosts if host not in doubted):
        hosts = tuple(host for host in hosts if host in doubted) or hosts
    if hosts != one.hosts:
        text = (
            f"{text.rstrip('. ')}. {' and '.join(hosts)} contradicts more than {_MOST_CONTRADICTED} hosts, which go on"
        )
    return Unsettled(domain=one.domain, uuid=uuid, hosts=hosts, kind=kind, text=text)
