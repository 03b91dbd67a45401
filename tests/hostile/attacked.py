"""A balancer in a process of its own, to attack."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


class Attacked:
    """A balancer in a process of its own; ``log`` is what it wrote on standard error."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process, self._log = process, log
        self.pid = process.pid
        assert process.stdout is not None
        self.port = int(process.stdout.readline())

    def ask(self, line: str) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    @property
    def memory_mib(self) -> float:
        return float(self.ask("memory")[0])

    def cycles(self, count: int) -> list[float]:
        return [float(seconds) for seconds in self.ask(f"cycles {count}")]

    @property
    def log(self) -> str:
        return self._log.read_text()

    def connect(self, from_address: str = "127.0.0.1") -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=5, source_address=(from_address, 0))

    def get(self, path: str, timeout: float = 5.0) -> bytes | None:
        """The whole answer; None when there is none in time."""
        try:
            with self.connect() as connection:
                connection.settimeout(timeout)
                connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
                parts = []
                while part := connection.recv(1 << 16):
                    parts.append(part)
                return b"".join(parts) or None
        except OSError:
            return None

    def answered(self, path: str, times: int) -> int:
        """How many of ``times`` requests were answered with 200."""
        return sum((self.get(path) or b"").startswith(b"HTTP/1.1 200") for _ in range(times))


@contextmanager
def attacked(folder: Path, **options: str) -> Iterator[Attacked]:
    log = folder / "log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, HERE / "attacked_balancer.py", folder, json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        try:
            yield Attacked(process, log)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(30)
            assert process.stdout is not None
            process.stdout.close()
