"""How fast one CPU of this host computes, for groups of unequal hosts.

It is measured once, with work that every CPU does in the same way: integer arithmetic, branches and little memory.
Special instructions (AES, SHA, wide vectors), which would exaggerate differences, are not used. The result is the CPU
time of the best of several short runs, so that a busy host measures like an idle one.
"""

import json
import platform
import threading
import time
import zlib
from pathlib import Path

from virtpoise_exporter import metrics
from virtpoise_exporter.exposition import Family
from virtpoise_exporter.log import log

_REFERENCE_ROUNDS_PER_SECOND = 770.0  # a Xeon of 2020; this defines the ratio 1, so it never changes
RUNS = 30  # spread over two seconds, so that a burst of other work spoils only a few
_FORMAT = "virtpoise/cpu-speed/1"


class SpeedCollector:
    """Shows the configured ratio, else the one kept from an earlier start, else measures it."""

    name = "speed"

    def __init__(self, configured: float | None, procfs: Path, state: Path) -> None:
        self._ratio = configured
        self._procfs = procfs
        self._file = state / "cpu-speed.json"

    def start(self) -> None:
        """Starts to find the ratio in the background, unless it is configured."""
        if self._ratio is None:
            threading.Thread(target=self.find, name="speed", daemon=True).start()

    def collect(self, _seconds: float) -> list[Family]:
        family = Family(metrics.HOST_CPU_SPEED)
        if self._ratio is not None:
            family.add(self._ratio)
        return [family]

    def find(self) -> None:
        """Reads the ratio that was kept for this CPU, or measures and keeps it."""
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
            log.info("the CPU's speed cannot be kept in %s, so each start measures it: %s", self._file, error)

    def _measured_on(self) -> str:
        """The CPU model and interpreter that a measurement is valid for."""
        try:
            text = (self._procfs / "cpuinfo").read_text()
        except OSError:
            text = ""
        models = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
        return f"{models[0] if models else platform.machine()}, Python {platform.python_version()}"


def measure() -> float:
    """The ratio in steps of 0.05, at least 0.05. Two measurements of one CPU agree within a step.

    It takes some 0.4 s of CPU time.
    """
    seconds = float("inf")
    for _ in range(RUNS):
        seconds = min(seconds, _run())
        time.sleep(0.05)
    return max(0.05, round(20 / seconds / _REFERENCE_ROUNDS_PER_SECOND) / 20)


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
