"""How fast one CPU of this host computes, for groups of unequal hosts.

Measured once, with work that every CPU does in the same way: whole-number arithmetic, branches and small memory, without
the special instructions (AES, SHA, wide vectors) that would make one CPU look many times another. What counts is the CPU
time of the measuring thread and the best of several short runs, so that a busy host measures like an idle one.
"""

import json
import platform
import threading
import time
import zlib
from pathlib import Path
from typing import Final

from virtpoise_exporter import metrics
from virtpoise_exporter.exposition import Family
from virtpoise_exporter.log import log

REFERENCE_ROUNDS_PER_SECOND: Final = 770.0  # of a Xeon of 2020; what 1 means, so it never changes
RUNS: Final = 30  # spread over two seconds: a burst of other work or of a neighbour on the same core spoils a few
_FORMAT: Final = "virtpoise/cpu-speed/1"


class SpeedCollector:
    """Shows a configured ratio, or one that was measured on this CPU before, or measures."""

    name = "speed"

    def __init__(self, configured: float | None, procfs: Path, state: Path) -> None:
        self._ratio = configured
        self._procfs = procfs
        self._file = state / "cpu-speed.json"

    def start(self) -> None:
        """Reads what was measured before; measures in the background if there is nothing for this CPU."""
        if self._ratio is None:
            threading.Thread(target=self.find, name="speed", daemon=True).start()

    def collect(self, _seconds: float) -> list[Family]:
        family = Family(metrics.HOST_CPU_SPEED)
        if self._ratio is not None:
            family.add(self._ratio)
        return [family]

    def find(self) -> None:
        """Takes what was measured before, or measures and keeps it."""
        measured_on = self._measured_on()
        try:
            kept = json.loads(self._file.read_text())
            if kept["format"] == _FORMAT and kept["measured_on"] == measured_on and 0.01 < float(kept["ratio"]) < 100:
                self._ratio = float(kept["ratio"])
                return
        except (OSError, ValueError, KeyError, TypeError):
            pass
        self._ratio = measure()
        content = json.dumps({"format": _FORMAT, "measured_on": measured_on, "ratio": self._ratio})
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            temporary = self._file.with_suffix(".new")
            temporary.write_text(content + "\n")
            temporary.replace(self._file)
        except OSError as error:
            log.info("the CPU's speed is measured at every start, for it cannot be kept in %s: %s", self._file, error)

    def _measured_on(self) -> str:
        """What a measurement holds for: this CPU and this interpreter."""
        try:
            text = (self._procfs / "cpuinfo").read_text()
        except OSError:
            text = ""
        models = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
        return f"{models[0] if models else platform.machine()}, Python {platform.python_version()}"


def measure() -> float:
    """The ratio, at least 0.05 and rounded to steps of that, which is what two measurements of one CPU agree on; takes some
    0.4 s of CPU time."""
    seconds = float("inf")
    for _ in range(RUNS):
        seconds = min(seconds, _run())
        time.sleep(0.05)
    return max(0.05, round(20 / seconds / REFERENCE_ROUNDS_PER_SECOND) / 20)


def _run() -> float:
    """CPU seconds of one round, as the mean of a few."""
    rounds = 10
    began = time.thread_time()
    for number in range(rounds):
        _round(number)
    return (time.thread_time() - began) / rounds


def _round(number: int) -> None:
    state, words = 88172645463325252 + number, []
    for _ in range(2000):  # xorshift: the interpreter's own loop, branches and small objects
        state ^= (state << 13) & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 7
        state ^= (state << 17) & 0xFFFFFFFFFFFFFFFF
        words.append(state)
    words.sort()
    zlib.compress(b"".join(word.to_bytes(8, "big")[:3] for word in words), 6)
    pow(words[0] | 1, words[1], (1 << 521) - 1)
