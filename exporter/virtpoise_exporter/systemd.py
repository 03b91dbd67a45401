"""Reports the exporter's state to systemd (sd_notify(3)), if systemd started it."""

import os
import socket

from virtpoise_exporter.log import log


def notify(state: str) -> None:
    """Sends a state such as ``READY=1`` to systemd's socket. Does nothing without one; an error is only logged."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as connection:
            connection.connect("\0" + path[1:] if path.startswith("@") else path)
            connection.sendall(state.encode())
    except OSError as error:
        log.warning("state %s cannot be sent to systemd at NOTIFY_SOCKET %s: %s", state, path, error.strerror or error)


def watchdog_seconds() -> float | None:
    """Seconds between two reports to systemd's watchdog: half its timeout. None if it does not watch this process."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    return int(microseconds) / 2e6 if microseconds.isdigit() and int(microseconds) > 0 else None
