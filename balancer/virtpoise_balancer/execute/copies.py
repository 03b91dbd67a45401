"""Domains that Prometheus shows on more than one host, whoever put them there. Their hosts' own libvirt is
asked, and its answer counts.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import structlog

from virtpoise_balancer.execute.hosts import Hosts
from virtpoise_balancer.execute.reconcile import SETTLED, Answer, Silent
from virtpoise_balancer.execute.reconciler import descriptions, presence
from virtpoise_balancer.model import Unsettled, UnsettledKind
from virtpoise_balancer.threads import THREADS, Thread, Threads

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class SeenTwice:
    """A domain and the hosts that all seem to run it."""

    domain: str
    hosts: tuple[str, ...]


@dataclass(slots=True)
class Copies:
    """Finds out where domains really run that Prometheus shows on several hosts.

    ``hosts``: as configured now. Everything is keyed by the domain's uuid.
    """

    hosts: Callable[[], Hosts]
    threads: Threads = THREADS
    _seen: dict[str, SeenTwice] = field(default_factory=dict)
    _answers: dict[str, Mapping[str, Answer]] = field(default_factory=dict)
    _described: dict[str, str] = field(default_factory=dict)  # what distinguishes those that are active twice
    _asking: dict[str, Thread] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def keep_up(self, seen: Mapping[str, SeenTwice]) -> None:
        """Ask, beside the cycle, about the domains seen twice now, and those that were active twice at their hosts'
        last answers.
        """
        with self._lock:
            standing = {uuid: one for uuid, one in self._seen.items() if _active(self._answers.get(uuid, {})) > 1}
            self._seen = standing | dict(seen)
            self._answers = {uuid: answers for uuid, answers in self._answers.items() if uuid in self._seen}
            self._described = {uuid: words for uuid, words in self._described.items() if uuid in self._seen}
            for uuid, one in self._seen.items():
                if uuid not in self._asking:
                    self._asking[uuid] = self.threads.start(partial(self._ask, uuid, one), f"copies of {one.domain}")

    def unsettled(self) -> tuple[Unsettled, ...]:
        """Those that are active twice, or not known to be active once."""
        with self._lock:
            found = [
                (uuid, one, self._answers.get(uuid), self._described.get(uuid, "")) for uuid, one in self._seen.items()
            ]
        return tuple(
            _unsettled(uuid, one, answers, words) for uuid, one, answers, words in found if not _is_cleared(answers)
        )

    def wait(self, seconds: float) -> None:
        """Wait until all that is being asked has been answered, for ``seconds`` at most each."""
        for thread in list(self._asking.values()):
            thread.join(seconds)

    def _ask(self, uuid: str, one: SeenTwice) -> None:
        try:
            hosts = self.hosts()
            answers = {host: presence(hosts, host, uuid) for host in one.hosts}
            places = [host for host, answer in answers.items() if answer in SETTLED]
            words = descriptions(hosts, places, uuid) if len(places) > 1 else ""
            with self._lock:
                if uuid in self._seen:
                    self._answers[uuid] = answers
                    self._described[uuid] = words
            if _active(answers) > 1:
                log.error("a domain runs on more than one host", domain=one.domain, uuid=uuid, hosts=list(one.hosts))
        except Exception:  # the next cycle asks again
            log.exception("the hosts of a domain that is seen twice could not be asked", domain=one.domain)
        finally:
            with self._lock:
                self._asking.pop(uuid, None)


def _active(answers: Mapping[str, Answer]) -> int:
    return sum(answer in SETTLED for answer in answers.values())


def _is_cleared(answers: Mapping[str, Answer] | None) -> bool:
    """Whether the hosts have denied it."""
    if answers is None or any(isinstance(answer, Silent) for answer in answers.values()):
        return False
    return _active(answers) <= 1


def _unsettled(uuid: str, one: SeenTwice, answers: Mapping[str, Answer] | None, words: str) -> Unsettled:
    places = " and ".join(one.hosts)
    kind, text = UnsettledKind.UNKNOWN, f"{one.domain} is seen running on {places}, and not all of them have been asked"
    if answers is not None:
        silent = [host for host, answer in answers.items() if isinstance(answer, Silent)]
        text = f"{one.domain} is seen running on {places}; no answer from {', '.join(silent)}"
        if _active(answers) > 1:
            active = " and ".join(f"{host} ({answer})" for host, answer in answers.items() if answer in SETTLED)
            kind, text = UnsettledKind.TWICE, f"{one.domain} is active on {active} at once. {words}"
    return Unsettled(domain=one.domain, uuid=uuid, hosts=one.hosts, kind=kind, text=text)
