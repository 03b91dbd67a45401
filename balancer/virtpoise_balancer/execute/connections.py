"""Connections to the hosts' libvirt daemons: opened within a deadline, kept alive, given up when the other end is gone."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import TypeVar

import libvirt

from virtpoise_balancer.errors import LibvirtError

# Keepalive: a daemon that has not answered for this long is gone, and calls that wait for it end.
_KEEPALIVE_SECONDS = 5
_KEEPALIVE_COUNT = 4

_T = TypeVar("_T")
_started = threading.Lock()
_running = False


def _run_events() -> None:
    """libvirt's event loop, which keepalive needs; one for the process, as libvirt wants it."""
    global _running
    with _started:
        if _running:
            return
        libvirt.virEventRegisterDefaultImpl()
        # Errors are raised to the caller; libvirt would also print them.
        libvirt.registerErrorHandler(lambda _context, _error: None, None)
        _running = True

    def loop() -> None:
        while True:
            libvirt.virEventRunDefaultImpl()

    threading.Thread(target=loop, name="libvirt-events", daemon=True).start()


def said(error: libvirt.libvirtError) -> str:
    """libvirt's message in one line."""
    return " ".join((error.get_error_message() or str(error)).split())


def within(seconds: float, call: Callable[[], _T], what: str) -> _T:
    """The result of a call that libvirt may never end. LibvirtError past the deadline; the call's thread is then left behind."""
    answer: queue.SimpleQueue[tuple[_T | None, BaseException | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            answer.put((call(), None))
        except BaseException as error:
            answer.put((None, error))

    threading.Thread(target=run, name=f"libvirt {what}", daemon=True).start()
    try:
        value, error = answer.get(timeout=seconds)
    except queue.Empty:
        raise LibvirtError(f"{what}: no answer within {seconds:g} s") from None
    if isinstance(error, libvirt.libvirtError):
        raise LibvirtError(f"{what}: {said(error)}") from None
    if error is not None:
        raise error
    return value  # type: ignore[return-value]


def connect(uri: str, timeout_seconds: float) -> libvirt.virConnect:
    """A connection to the daemon at ``uri``. LibvirtError when it is not there within the deadline."""
    _run_events()

    def open_it() -> libvirt.virConnect:
        connection = libvirt.open(uri)
        connection.setKeepAlive(_KEEPALIVE_SECONDS, _KEEPALIVE_COUNT)
        return connection

    return within(timeout_seconds, open_it, uri)
