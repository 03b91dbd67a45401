"""What a running lab has started, on disk, so that any later command finds it: ``load``, ``status``, and above all
``down``.
"""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from virtpoise_lab.errors import LabError
from virtpoise_lab.model import DomainSpec, HostSpec, Load
from virtpoise_lab.processes import Process

# Labs of different names may be up at the same time, each in a network namespace of its own.
FIRST = "virtpoise-lab"
NAME = os.environ.get("VIRTPOISE_LAB", FIRST)
FOLDER = Path("/run", NAME)
FILE = FOLDER / "state.json"


@dataclass(frozen=True, slots=True)
class HostState:
    """A host and its first process, through which its namespaces are entered."""

    number: int
    init: Process

    @property
    def spec(self) -> HostSpec:
        return HostSpec(self.number)


@dataclass(frozen=True, slots=True)
class Started:
    """A process that was started by name; host is None on the manager's side."""

    name: str
    host: str | None
    process: Process


@dataclass(frozen=True, slots=True)
class State:
    """Everything a lab has started.

    share: CPU time of one CPU that each host has, 1.0 for a whole one. spare: the part of its CPU time that each host
    is expected to leave idle.
    """

    complete: bool = False
    acceleration: str = ""
    capacity: int = 0
    spare: float = 0.0
    share: float = 1.0
    host_memory: int = 0
    folders_made: tuple[str, ...] = ()
    hosts: tuple[HostState, ...] = ()
    domains: tuple[DomainSpec, ...] = ()
    processes: tuple[Started, ...] = ()

    def domain(self, name: str) -> DomainSpec:
        for spec in self.domains:
            if spec.name == name:
                return spec
        raise LabError(f"no domain {name!r} in the lab: there are {', '.join(d.name for d in self.domains) or 'none'}")

    def host(self, name: str) -> HostState:
        for host in self.hosts:
            if host.spec.name == name:
                return host
        raise LabError(f"no host {name!r} in the lab: there are {', '.join(h.spec.name for h in self.hosts) or 'none'}")

    def with_load(self, name: str, load: Load) -> "State":
        return replace(self, domains=tuple(replace(d, load=load) if d.name == name else d for d in self.domains))


def read() -> State | None:
    """The lab's state; None if there is no lab.

    A file that a crash left unreadable stands for a lab that died early.
    """
    try:
        data = json.loads(FILE.read_text())
    except FileNotFoundError:
        return State() if FOLDER.exists() else None
    except json.JSONDecodeError:
        return State()
    return _from_json(data)


def write(state: State) -> None:
    """Replaces the file as a whole: a reader sees the old state or the new one."""
    partial = FILE.with_suffix(f".{os.getpid()}")
    partial.write_text(json.dumps(asdict(state), indent=1))
    partial.replace(FILE)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the lock of a folder: one at a time, over all processes and threads."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _from_json(data: dict[str, Any]) -> State:
    return State(
        **{
            **data,
            "folders_made": tuple(data["folders_made"]),
            "hosts": tuple(HostState(h["number"], Process(**h["init"])) for h in data["hosts"]),
            "domains": tuple(DomainSpec(**{**d, "load": Load(**d["load"])}) for d in data["domains"]),
            "processes": tuple(Started(p["name"], p["host"], Process(**p["process"])) for p in data["processes"]),
        }
    )
