"""A PostgreSQL server for a test or a campaign: Debian's programs, as an unprivileged user, on a socket in a folder of
its own, and where that is asked for on an address too.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import psycopg

from virtpoise_lab.artefacts import CACHE

USER = "virtpoise"
PASSWORD = "not-to-be-shown"
_PATIENCE_SECONDS = 60.0


def _programs() -> Path:
    """The folder of the server's programs: those of the machine, or those that scripts/setup unpacked."""
    for root in (Path("/"), CACHE / "postgresql"):
        for found in sorted(root.glob("usr/lib/postgresql/*/bin/postgres"), reverse=True):
            return found.parent
    raise FileNotFoundError("PostgreSQL's programs: scripts/setup unpacks them")


class Server:
    """Started when made; ``close`` ends it and removes its folder.

    address: on which other machines reach it. It is started where the calling thread is.
    """

    def __init__(self, address: str = "") -> None:
        self._address = address
        self._as = {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.geteuid() == 0 else {}
        self.folder = Path(tempfile.mkdtemp(prefix="virtpoise-pg-"))  # a socket's path must be short
        self._own_folder = Path(tempfile.mkdtemp(prefix="virtpoise-pgpass-"))  # the daemon's may be another user's
        self.password_file = self._own_folder / "password"
        self.password_file.touch(0o600)
        self.password_file.write_text(f"{PASSWORD}\n")
        first_password = self.folder / "password"
        shutil.copy(self.password_file, first_password)
        if self._as:
            for path in (self.folder, first_password):
                shutil.chown(path, "nobody", "nogroup")
        self._data, self._databases = self.folder / "data", 0
        self._run(
            _programs() / "initdb", "-D", self._data, "-U", USER, "--auth=scram-sha-256", f"--pwfile={first_password}",
            "--no-sync", "-E", "UTF8", "--locale=C",
        )  # fmt: skip
        with (self._data / "pg_hba.conf").open("a") as allowed:
            allowed.write("host all all samenet scram-sha-256\n")
        self.start()

    def start(self) -> None:
        settings = {"listen_addresses": self._address, "unix_socket_directories": str(self.folder), "fsync": "off"}
        options = [f"--{name}={value}" for name, value in settings.items()]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [_programs() / "postgres", "-D", self._data, *options],
                stdout=log,
                stderr=log,
                cwd="/",
                **self._as,  # type: ignore[call-overload]
            )
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self.folder / "log").read_text())
            time.sleep(0.05)

    def _answers(self) -> bool:
        try:
            self.sql("SELECT 1", "postgres")
        except psycopg.OperationalError:
            return False
        return True

    def stop(self) -> None:
        """Stop it at once, as when the machine is switched off; what was committed is there afterwards."""
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait(_PATIENCE_SECONDS)

    def freeze(self) -> None:
        """Stop all its processes where they are: it answers nothing, and its machine still acknowledges what comes."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        """Give a signal to the server, and to all that it has begun."""
        own = self._process.pid
        self._process.send_signal(number)
        for child in Path(f"/proc/{own}/task/{own}/children").read_text().split():
            os.kill(int(child), number)

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.folder)
        shutil.rmtree(self._own_folder)

    def new_database(self) -> str:
        """The address of an empty database, without the password."""
        self._databases += 1
        name = f"virtpoise{self._databases}"
        self.sql(f"CREATE DATABASE {name}", "postgres")
        return f"postgresql+psycopg://{USER}@/{name}?host={self._address or self.folder}"

    def sql(self, statement: str, database: str) -> None:
        with self.connect(database) as connection:
            connection.execute(statement.encode())

    def connect(self, database: str) -> psycopg.Connection[tuple[Any, ...]]:
        return psycopg.connect(host=str(self.folder), user=USER, password=PASSWORD, dbname=database, autocommit=True)

    def _run(self, *command: object) -> None:
        subprocess.run([str(one) for one in command], check=True, capture_output=True, cwd="/", **self._as)  # type: ignore[call-overload]
