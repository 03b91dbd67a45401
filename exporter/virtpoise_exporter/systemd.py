"""Tells systemd how the exporter is (sd_notify(3)), if systemd started it."""

import os
import socket

from virtpoise_exporter.log import log


def notify(state: str) -> None:
    """Sends e.g. `READY=1` to the socket that systemd named; does nothing without one. Nobody there is no reason not to
    serve."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as connection:
            connection.connect("\0" + path[1:] if path.startswith("@") else path)
            connection.sendall(state.encode())
    except OSError as error:
        log.warning("systemd cannot be told %s at NOTIFY_SOCKET %s: %s", state, path, error.strerror or error)


def watchdog_seconds() -> float | None:
    """How often systemd wants to hear from this process: half the time after which it would end it."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    return int(microseconds) / 2e6 if microseconds.isdigit() and int(microseconds) > 0 else None
