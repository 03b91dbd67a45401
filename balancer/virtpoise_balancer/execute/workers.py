"""Worker processes that call libvirt for the balancer: started when needed, lent to one caller at a time, killed when
too slow.

A libvirt call can hang, and no thread can be stopped in the midst of one; a process can. So no libvirt object lives in
the balancer itself: nothing of a hanging host stays in it, neither a thread nor a descriptor, and a crash of the
library ends one worker. Why not connections that are never closed with a call under way, and what a worker costs:
docs/decisions/0021.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from virtpoise_balancer.errors import LibvirtError, LibvirtSilent

# An idle worker keeps its connection for a while, since the same host is mostly asked again soon.
_IDLE_SECONDS = 30.0
# From this many on, idle workers are connected to other hosts instead of starting more, and those that come back are
# ended.
_MOST_KEPT = 32
# A start takes 50 ms of CPU time, but some seconds on a machine that is overloaded: no fault of the host that is to be
# asked.
_START_SECONDS = 60.0
# Of the facts of a host with some thousand domains.
_MOST_REPLY_BYTES = 64 * 2**20
# -P: no module is taken from the folder that the balancer happens to be started in.
_COMMAND = (sys.executable, "-P", "-m", "virtpoise_balancer.execute.worker")


@dataclass(frozen=True, slots=True)
class WorkerReply:
    """The answer to a call.

    ``error``: libvirt's message, or None when the call was answered with ``value`` (plain values as in JSON). ``lost``:
    the connection broke before libvirt had answered.
    """

    value: Any = None
    error: str | None = None
    lost: bool = False


class Worker:
    """A child process that makes one libvirt call at a time (``worker.__main__``), and the balancer's end of its
    socket.

    ``start`` makes one.
    """

    def __init__(self, process: subprocess.Popen[bytes], wire: socket.socket) -> None:
        self.uri = ""  # of the host it was asked about last
        self.idle_since = 0.0  # on the monotonic clock
        self.busy = False  # a request is not answered yet
        self._received = bytearray()
        self._process, self._wire = process, wire

    @classmethod
    def start(cls) -> Worker:
        """A new process that is ready for requests. LibvirtError when none can be started."""
        wire, theirs = socket.socketpair()
        with theirs:
            # A process group of its own, so that the ssh that libvirt starts can be killed with it.
            try:
                process = subprocess.Popen(  # noqa: S603 - a fixed command
                    _COMMAND, stdin=theirs.fileno(), stdout=subprocess.DEVNULL, start_new_session=True
                )
            except OSError as error:
                wire.close()
                raise LibvirtError(f"no process can be started to ask: {error.strerror}") from None
        worker = cls(process, wire)
        if worker.reply(_START_SECONDS) is None:
            worker.kill()
            raise LibvirtError(f"no process can be started to ask: it is not ready after {_START_SECONDS:g} s")
        return worker

    def send(self, uri: str, call: str, arguments: Sequence[object]) -> None:
        """Send a request; the one before must have been answered."""
        self.uri = uri
        self.busy = True
        request = json.dumps({"do": call, "uri": uri, "arguments": arguments})
        try:
            self._wire.settimeout(None)
            self._wire.sendall(request.encode() + b"\n")
        except OSError:
            return  # it is dead: `reply` finds out

    def reply(self, seconds: float) -> WorkerReply | None:
        """The answer to the last request, or at first that it is ready. Waits this long; None when there is none yet.

        LibvirtError when the worker has died instead.
        """
        deadline = time.monotonic() + seconds
        while b"\n" not in self._received:
            self._wire.settimeout(max(0.0, deadline - time.monotonic()))
            try:
                more = self._wire.recv(1 << 16)
            except (TimeoutError, BlockingIOError):
                return None
            except OSError:
                more = b""
            if not more:
                raise LibvirtError(f"the process that asked it was ended by {self.kill()}")
            self._received += more
            if len(self._received) > _MOST_REPLY_BYTES:
                self.kill()
                raise LibvirtError(f"its answer exceeds {_MOST_REPLY_BYTES} bytes")
        reply = json.loads(self._received)
        self._received.clear()
        self.busy = False
        return WorkerReply(**reply)

    def kill(self) -> str:
        """End it and what it has started, whatever it is doing.

        Returns what had ended it, as a signal's name or a status.
        """
        with self._wire:
            if self._process.returncode is None:
                # Not reaped yet, so that the number is still its own.
                try:
                    os.killpg(self._process.pid, signal.SIGKILL)
                except ProcessLookupError:  # it died before it had a group of its own
                    self._process.kill()
        status = self._process.wait()
        return signal.Signals(-status).name if status < 0 else f"status {status}"


class Workers:
    """Lends workers, and keeps those that come back idle for a while. ``close`` ends all that are idle.

    A caller has one worker at a time, so there are never more than callers and idle ones, whatever hangs.
    """

    def __init__(self) -> None:
        self._idle: list[Worker] = []  # longest idle first
        self._lent = 0
        self._changing = threading.Lock()
        self._tidying: threading.Timer | None = None
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def ask(
        self, uri: str, call: str, arguments: Sequence[object], *, connect_seconds: float, seconds: float, what: str
    ) -> Any:
        """The value of one call on the daemon at ``uri``. ``what`` begins the message of an error, except where no
        connection is made.

        LibvirtError when libvirt refuses, LibvirtSilent when it does not answer in time; then the worker is killed.
        """
        with self.lent(uri) as worker:
            _answer(worker, uri, "connect", (), connect_seconds, uri)
            return _answer(worker, uri, call, arguments, seconds, what)

    @contextmanager
    def lent(self, uri: str) -> Iterator[Worker]:
        """A worker for the time of the block, if possible one that is connected to ``uri``; killed if it is busy at the
        end.
        """
        worker = self._take(uri)
        try:
            yield worker
        finally:
            self._give_back(worker)

    def close(self) -> None:
        """End the idle workers, and from now on each one that comes back."""
        with self._changing:
            self._closed = True
            ended, self._idle = self._idle, []
            if self._tidying is not None:
                self._tidying.cancel()
        for worker in ended:
            worker.kill()

    def _take(self, uri: str) -> Worker:
        with self._changing:
            fitting = next((worker for worker in self._idle if worker.uri == uri), None)
            if fitting is None and self._idle and self._lent + len(self._idle) >= _MOST_KEPT:
                fitting = self._idle[0]
            if fitting is not None:
                self._idle.remove(fitting)
        worker = fitting or Worker.start()
        with self._changing:
            self._lent += 1
        return worker

    def _give_back(self, worker: Worker) -> None:
        worker.idle_since = time.monotonic()
        with self._changing:
            self._lent -= 1
            kept = not worker.busy and not self._closed and self._lent + len(self._idle) < _MOST_KEPT
            if kept:
                self._idle.append(worker)
                self._tidy_later()
        if not kept:
            worker.kill()

    def _tidy_later(self) -> None:
        if self._tidying is None and self._idle:
            tidying = threading.Timer(_IDLE_SECONDS, self._tidy)
            tidying.daemon = True
            with suppress(RuntimeError):  # the system has no thread left: whoever gives one back tries again
                tidying.start()
                self._tidying = tidying

    def _tidy(self) -> None:
        """End those that were not needed for a while."""
        with self._changing:
            if self._closed:
                return
            before = time.monotonic() - _IDLE_SECONDS
            ended = [worker for worker in self._idle if worker.idle_since <= before]
            self._idle = [worker for worker in self._idle if worker.idle_since > before]
            self._tidying = None
            self._tidy_later()
        for worker in ended:
            worker.kill()


def _answer(worker: Worker, uri: str, call: str, arguments: Sequence[object], seconds: float, what: str) -> Any:
    worker.send(uri, call, arguments)
    try:
        reply = worker.reply(seconds)
    except LibvirtError as error:
        raise LibvirtError(f"{what}: {error}") from None
    if reply is None:
        raise LibvirtSilent(f"{what}: no answer within {seconds:g} s")
    if reply.error is not None:
        raise LibvirtError(f"{what}: {reply.error}")
    return reply.value
