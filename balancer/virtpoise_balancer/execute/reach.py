"""Which hosts' libvirt daemons answer the balancer, asked beside the cycles: of each host one question at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial

from virtpoise_balancer.analyse.silence import Silence
from virtpoise_balancer.clock import SYSTEM, Clock
from virtpoise_balancer.errors import LibvirtError
from virtpoise_balancer.execute.lanes import Lanes, Work
from virtpoise_balancer.threads import THREADS, Event, Threads

# How long after its last answer a silent host is asked again.
_AGAIN_SECONDS = 10.0
# How many hosts are asked side by side. Prometheus says how many there are.
_LANES = 32
# For how long an answer is waited for: a worker's start, its connection and its answer each have a limit of their own.
_MOST_WAIT_SECONDS = 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HostAnswer:
    """A host's last answer. ``asked_at``: when it was asked, in Unix seconds. ``why``: why it did not answer, or empty.

    ``active_domains``: how many domains its libvirt has in any state but shut off; None when it did not answer.
    """

    asked_at: float
    active_domains: int | None
    why: str = ""


@dataclass(slots=True)
class Reach:
    """What the hosts answered.

    ``ask_host`` returns a host's number of active domains within a bounded time, or raises LibvirtError.
    """

    ask_host: Callable[[str], int]
    clock: Clock = SYSTEM
    threads: Threads = THREADS
    _answers: dict[str, HostAnswer] = field(default_factory=dict)
    _answered_at: dict[str, float] = field(default_factory=dict)  # when the last question ended, monotonic
    _under_way: dict[str, Event] = field(default_factory=dict)  # set when the question has been answered
    _waiting: list[str] = field(default_factory=list)  # hosts that are to be asked, in order
    _lanes: Lanes = field(init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._lanes = Lanes(self._next, _LANES, "ask hosts", self.threads)

    def keep_up(self, hosts: Collection[str], closely: Collection[str] = ()) -> None:
        """Ask in the background what is not known: new hosts, silent ones again, and in any case those to be watched
        ``closely``.

        Returns at once.
        """
        now = self.clock.monotonic()
        with self._lock:
            due = [
                host
                for host in hosts
                if (answer := self._answers.get(host)) is None
                or (answer.why and now - self._answered_at[host] >= _AGAIN_SECONDS)
            ]
        self._begin(sorted({*due, *closely}))  # in one order in every process

    def forget_others(self, hosts: Collection[str]) -> None:
        """Forget all but these hosts."""
        with self._lock:
            for known in (self._answers, self._answered_at):
                for gone in known.keys() - set(hosts):
                    del known[gone]

    def ask(self, hosts: Iterable[str]) -> None:
        """Ask these hosts now, all at once, and return when all have answered or were given up.

        Within a bounded time; at once while the system has no thread for it: then ``keep_up`` asks them later.
        """
        until = self.clock.monotonic() + _MOST_WAIT_SECONDS
        for answered in self._begin(hosts):
            answered.wait(max(until - self.clock.monotonic(), 0.0))

    def answers(self) -> Mapping[str, HostAnswer]:
        with self._lock:
            return dict(self._answers)

    def silence(self) -> Silence:
        with self._lock:
            return Silence(
                silent={host: answer.why for host, answer in self._answers.items() if answer.why},
                answered=any(not answer.why for answer in self._answers.values()),
            )

    def _begin(self, hosts: Iterable[str]) -> list[Event]:
        """Begin to ask those that are not being asked already; for each host what is set when it has answered.

        None when no thread can be had: they stay in the queue.
        """
        answers = []
        with self._lock:
            for host in hosts:
                answered = self._under_way.get(host)
                if answered is None:
                    answered = self._under_way[host] = self.threads.event()
                    self._waiting.append(host)
                answers.append(answered)
            waiting = len(self._waiting)
        return answers if self._lanes.begin(waiting) else []

    def _next(self) -> Work | None:
        with self._lock:
            return partial(self._ask_one, self._waiting.pop(0)) if self._waiting else None

    def _ask_one(self, host: str) -> None:
        asked_at = self.clock.now()
        try:
            answer = HostAnswer(asked_at=asked_at, active_domains=self.ask_host(host))
        except LibvirtError as error:
            answer = HostAnswer(asked_at=asked_at, active_domains=None, why=str(error))
        except Exception as error:  # whatever it was, the host has not answered
            answer = HostAnswer(
                asked_at=asked_at, active_domains=None, why=f"unforeseen: {type(error).__name__}: {error}"
            )
        now = self.clock.monotonic()
        with self._lock:
            self._answers[host] = answer
            self._answered_at[host] = now
            self._under_way.pop(host).set()
