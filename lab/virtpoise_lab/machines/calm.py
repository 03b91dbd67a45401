"""Shows a machine that it is calm, whatever else the machine below it does: serves a /proc/stat of its own.

Runs on the booted machine itself, from its first seconds on: python3 calm.py BUSY_RATIO
"""

import os
import subprocess
import sys
import time
from pathlib import Path

_FILE = Path("/run/stat")
_TICKS = os.sysconf("SC_CLK_TCK")
_EVERY_SECONDS = 0.5


def text(real: str, seconds: float, busy: float) -> str:
    """The file after ``seconds``, if each CPU was busy for the share ``busy`` of them.

    ``real``: the kernel's own file.
    """
    kept = [line for line in real.splitlines() if not line.startswith("cpu")]
    cpus = [line.split()[0] for line in real.splitlines() if line.startswith("cpu")][1:]

    def line(name: str, count: int) -> str:
        used = int(seconds * busy * _TICKS) * count
        return f"{name} {used} 0 0 {int(seconds * _TICKS) * count - used} 0 0 0 0 0 0"

    return "\n".join([line("cpu ", len(cpus)), *(line(cpu, 1) for cpu in cpus), *kept, ""])


def serve(busy: float) -> None:
    """Replaces the machine's /proc/stat and keeps it going for ever."""
    real = Path("/proc/stat").read_text(encoding="ascii")
    start = time.monotonic()
    with _FILE.open("w", encoding="ascii") as file:
        file.write(text(real, 0, busy))
        file.flush()
        subprocess.run(["mount", "--bind", str(_FILE), "/proc/stat"], check=True)
        while True:
            time.sleep(_EVERY_SECONDS)
            # Readers of one file see the old text or the new one, since it grows in place and is written at once.
            content = text(real, time.monotonic() - start, busy).encode("ascii")
            os.pwrite(file.fileno(), content, 0)


if __name__ == "__main__":
    serve(float(sys.argv[1]))
