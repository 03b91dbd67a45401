"""Virtual time, and threads of virtual processes on it: one runs at a time, in an order that the seed alone decides.

A thread is a greenlet. It runs until it waits; then time moves on to whatever is due next. So a whole balancer with its
threads runs in one thread of this machine, and the same seed gives the same run.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from types import TracebackType

from greenlet import GreenletExit, getcurrent, greenlet


@dataclass(eq=False)
class VirtualProcess:
    """A process that can be killed. ``ahead_seconds``: its machine's clock against the true time."""

    name: str
    ahead_seconds: float = 0.0
    alive: bool = True
    tasks: list[Task] = field(default_factory=list)

    def check(self) -> None:
        """What is done in the name of a dead process is not done."""
        if not self.alive:
            raise GreenletExit


@dataclass(eq=False)
class Task:
    """A thread of a virtual process."""

    kernel: Kernel
    process: VirtualProcess
    name: str
    run: greenlet = field(init=False)
    over: bool = False
    waits: int = 0  # how often it has waited: a wake-up for an earlier wait is none

    def is_alive(self) -> bool:
        return not self.over

    def join(self, timeout: float | None = None) -> None:
        self.kernel.wait_until(lambda: self.over, timeout)


class Kernel:
    """The clock and the queue of what is due. ``at``: the true time in Unix seconds."""

    def __init__(self, random: Random, at: float) -> None:
        self.at = at
        self.random = random
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        self._hub = getcurrent()
        self.current: Task | None = None
        self.escaped: list[str] = []  # errors that no one caught
        self._waiting: list[tuple[Callable[[], bool], Task, int]] = []

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._due, (self.at + max(seconds, 0.0), self._number, act))

    def start(self, process: VirtualProcess, work: Callable[[], object], name: str) -> Task:
        task = Task(self, process, name)

        def whole() -> None:
            try:
                process.check()
                work()
            except Exception as error:
                self.escaped.append(f"{process.name}, thread {name!r}: {type(error).__name__}: {error}")
            finally:
                task.over = True
                if task in process.tasks:
                    process.tasks.remove(task)

        task.run = greenlet(whole, self._hub)
        process.tasks.append(task)
        self.after(self.random.random() * 0.001, lambda: self._resume(task, 0))
        return task

    def sleep(self, seconds: float) -> None:
        task = self._present()
        task.process.check()
        task.waits += 1
        number = task.waits
        self.after(seconds, lambda: self._resume(task, number))
        self._hub.switch()
        task.process.check()

    def wait_until(self, condition: Callable[[], bool], timeout: float | None = None) -> bool:
        """Wait until the condition holds, for ``timeout`` seconds at most. Whether it holds."""
        if condition():
            return True
        task = self._present()
        task.process.check()
        task.waits += 1
        number = task.waits
        self._waiting.append((condition, task, number))
        if timeout is not None:
            self.after(timeout, lambda: self._resume(task, number))
        self._hub.switch()
        task.process.check()
        return condition()

    def run(self, until: float, done: Callable[[], bool] = lambda: False) -> None:
        """Go on until this time, or until ``done`` holds after something happened."""
        while self._due and self._due[0][0] <= until and not done():
            self.at, _, act = heapq.heappop(self._due)
            act()
            if self._waiting:
                self._wake()
        if not done():
            self.at = max(self.at, until)

    def kill(self, process: VirtualProcess) -> None:
        """End the process now: none of its threads does another thing.

        From within one of them, this does not return.
        """
        process.alive = False
        for task in list(process.tasks):
            if task is not self.current and task.run:
                self._throw(task)
        if self.current is not None and self.current.process is process:
            raise GreenletExit

    def _wake(self) -> None:
        still = []
        for condition, task, number in self._waiting:
            if task.over or task.waits != number:
                continue
            if condition():
                self.after(0.0, lambda task=task, number=number: self._resume(task, number))  # type: ignore[misc]
            else:
                still.append((condition, task, number))
        self._waiting = still

    def _present(self) -> Task:
        if self.current is None:
            raise RuntimeError("only a thread of a virtual process can wait")
        return self.current

    def _resume(self, task: Task, number: int) -> None:
        if task.over or task.waits != number:
            return
        before, self.current = self.current, task
        try:
            task.run.switch()
        finally:
            self.current = before

    def _throw(self, task: Task) -> None:
        task.waits += 1
        before, self.current = self.current, task
        parent, task.run.parent = task.run.parent, getcurrent()
        try:
            task.run.throw(GreenletExit)
        finally:
            self.current = before
            if not task.run.dead:
                task.run.parent = parent


class VirtualLock:
    """Held by one task at a time."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._held = False

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        while self._held:
            if not blocking or not self._kernel.wait_until(lambda: not self._held, None if timeout < 0 else timeout):
                return False
        self._held = True
        return True

    def release(self) -> None:
        self._held = False

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class VirtualEvent:
    """Set once."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._set = False

    def set(self) -> None:
        self._set = True

    def is_set(self) -> bool:
        return self._set

    def wait(self, timeout: float | None = None) -> bool:
        return self._kernel.wait_until(self.is_set, timeout)


@dataclass(frozen=True)
class VirtualThreads:
    """The threads of one virtual process, as the balancer's port wants them."""

    kernel: Kernel
    process: VirtualProcess

    def start(self, work: Callable[[], object], name: str, *, daemon: bool = True) -> Task:
        self.process.check()
        return self.kernel.start(self.process, work, name)

    def lock(self) -> VirtualLock:
        return VirtualLock(self.kernel)

    def event(self) -> VirtualEvent:
        return VirtualEvent(self.kernel)


@dataclass(frozen=True)
class VirtualClock:
    """The clock of the machine that a virtual process runs on."""

    kernel: Kernel
    process: VirtualProcess

    def now(self) -> float:
        return self.kernel.at + self.process.ahead_seconds

    def monotonic(self) -> float:
        return self.kernel.at

    def sleep(self, seconds: float) -> None:
        self.process.check()
        self.kernel.sleep(seconds)
