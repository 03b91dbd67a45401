"""Talks to a guest over its serial console, a Unix socket that QEMU keeps on whichever host the guest runs on."""

import itertools
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

from virtpoise_lab.errors import LabError
from virtpoise_lab.model import Load

_ids = itertools.count(os.getpid() * 1000)


def words(load: Load, share: float) -> tuple[str, int, int, int]:
    """KIND CPU DIRTY TRAFFIC as the guest's init takes them: thousandths of a CPU, KiB/s, KiB/s.

    share: how much of a CPU the host has; the load is percent of that.
    """
    return load.kind, round(load.cpu * 10 * share), round(load.dirty * 1e6 / 1024), round(load.traffic * 1e6 / 1024)


def command_line(name: str, load: Load, share: float, tsc_khz: int | None = None) -> str:
    """The kernel command line of the guest of this name that starts with this load; tsc_khz: where it is not to
    measure it.
    """
    kind, cpu, dirty, traffic = words(load, share)
    # tsc: the only clock that costs no trip out of the emulated machine. No IPv6: an idle guest stays idle. nokaslr: a
    # kernel that is not moved boots sooner; so does one that tries neither its ciphers nor its timer, which on a busy
    # CPU it would not hear, and panic.
    base = "console=ttyS0 quiet panic=-1 nokaslr clocksource=tsc tsc=reliable ipv6.disable=1"
    base += " cryptomgr.notests no_timer_check"
    if tsc_khz is not None:
        base += f" tsc_early_khz={tsc_khz}"
    return f"{base} vp_rhythm={rhythm(name)} vp_kind={kind} vp_cpu={cpu} vp_dirty={dirty} vp_traffic={traffic}"


def rhythm(name: str) -> int:
    """Which of the 31 rhythms a guest keeps; names that differ in nothing but their last letter or digit never share
    one.
    """
    return 1 + int.from_bytes(name.encode(), "big") % 31


def tell(socket_of: Callable[[], Path], what: tuple[str, int, int, int], seconds: float) -> None:
    """Tells a guest its load and waits until it has said that it took it; raises LabError if it does not in time.

    socket_of: finds the console, and is asked again for each try, since the guest may be starting or migrating.
    A command says the whole load, so it may be sent again.
    """
    end = time.monotonic() + seconds
    told = " ".join(map(str, what))
    problem = "no console"
    while time.monotonic() < end:
        number = next(_ids)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as console:
                console.settimeout(0.5)
                console.connect(str(socket_of()))
                console.sendall(f"load {number} {told}\n".encode())
                _read_until(console, f"ok {number} {told}".encode())
                return
        except TimeoutError:
            problem = "no answer"
        except (OSError, LabError) as error:
            problem = str(error)
            time.sleep(0.1)
    raise LabError(f"the guest did not take its load within {seconds:g} s: {problem}")


def _read_until(console: socket.socket, line: bytes) -> None:
    """Reads until that line came; raises TimeoutError after a silence."""
    text = b""
    while line not in text.splitlines():
        part = console.recv(4096)
        if not part:
            raise TimeoutError
        text += part
