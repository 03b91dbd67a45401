"""A recorded group: the file that keeps it, and what it asks of simulated hosts.

The file is a zip with ``recording.json`` (what there was) and one ``part-00000.npz`` a part. Names are replaced by
numbers, so that it can be sent with a bug report.
"""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_DNS, uuid5

import numpy as np
from pydantic import TypeAdapter, ValidationError

from virtpoise_balancer.errors import BadInput
from virtpoise_balancer.formats import in_one_line
from virtpoise_balancer.monitor.history import Part, PastGroup
from virtpoise_balancer.simulate.contention import on_hosts
from virtpoise_balancer.simulate.npz import read_arrays
from virtpoise_balancer.simulate.script import Fleet, StepDemand

_FORMAT = "virtpoise/recording/1"
_HEAD = "recording.json"
_INVENTORY = TypeAdapter(PastGroup)
# The largest file of a recording, and the most that one part holds, once unpacked.
_MOST_BYTES = 2**28
# What reading a damaged zip, or what is in it, may raise.
_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    LookupError,
    TypeError,
    ValueError,
    RuntimeError,
    MemoryError,
    OSError,
    EOFError,
    ArithmeticError,
)


def anonymous(inventory: PastGroup) -> PastGroup:
    """The inventory with numbers instead of names."""
    return replace(
        inventory,
        hosts=tuple(replace(one, name=f"host{number}") for number, one in enumerate(inventory.hosts, 1)),
        domains=tuple(
            replace(one, name=f"domain{number}", uuid=str(uuid5(NAMESPACE_DNS, f"domain{number}")))
            for number, one in enumerate(inventory.domains, 1)
        ),
    )


class RecordingFile:
    """A recording on disk. Parts are appended one by one, so that one that was interrupted can be gone on with."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def exists(self) -> bool:
        return self.path.exists()

    def begin(self, inventory: PastGroup) -> None:
        """Make the file. BadInput when it cannot be written."""
        try:
            with zipfile.ZipFile(self.path, "x", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr(_HEAD, json.dumps({"format": _FORMAT, **asdict(anonymous(inventory))}))
        except OSError as error:
            raise BadInput(f"{self.path}: cannot be written: {error.strerror}") from None

    def append(self, part: Part) -> Part:
        """Write a part down; returned as the file has it, with rounded figures. BadInput when it cannot be written."""
        packed = io.BytesIO()
        np.savez_compressed(
            packed,
            cpu_ratio=part.cpu_ratio.astype(np.float32),
            memory_ratio=part.memory_ratio.astype(np.float32),
            cores=part.cores.astype(np.float16),
            delay=part.delay.astype(np.float16),
            home=part.home.astype(np.int32),
            held_bytes=part.held_bytes,
            left_out=np.array(part.left_out),
        )
        try:
            with zipfile.ZipFile(self.path, "a", zipfile.ZIP_STORED) as archive:
                archive.writestr(f"part-{len(self._names(archive)):05d}.npz", packed.getvalue())
        except (OSError, zipfile.BadZipFile) as error:
            raise BadInput(f"{self.path}: cannot be written: {error}") from None
        return _part(packed.getvalue(), self.inventory())

    def inventory(self) -> PastGroup:
        """What there was. BadInput when the file is no recording."""
        try:
            with zipfile.ZipFile(self.path) as archive:
                head: Any = json.loads(_unpacked(archive, _HEAD))
                if not isinstance(head, dict) or head.pop("format", None) != _FORMAT:
                    raise BadInput(f"{self.path}: expected a recording ({_FORMAT})")
                return _INVENTORY.validate_python(head, strict=False)
        except OSError as error:
            raise BadInput(f"{self.path}: cannot be read: {error.strerror}") from None
        except _DAMAGED as error:
            why = in_one_line(error) if isinstance(error, ValidationError) else "it is damaged, or something else"
            raise BadInput(f"{self.path}: expected a recording ({_FORMAT}): {why}") from None

    def parts(self) -> Iterator[Part]:
        """The parts that are there. BadInput when one cannot be read."""
        inventory = self.inventory()
        with zipfile.ZipFile(self.path) as archive:
            for name in self._names(archive):
                try:
                    part = _part(_unpacked(archive, name), inventory)
                except _DAMAGED as error:
                    why = (str(error) or "it is damaged").splitlines()[0]
                    raise BadInput(f"{self.path}: {name}: cannot be read: {why}") from None
                yield part

    @staticmethod
    def _names(archive: zipfile.ZipFile) -> list[str]:
        return sorted(name for name in archive.namelist() if name.startswith("part-"))


def _unpacked(archive: zipfile.ZipFile, name: str) -> bytes:
    """A file of the archive. ValueError for one that would be huge."""
    if archive.getinfo(name).file_size > _MOST_BYTES:
        raise ValueError("it is too large")
    return archive.read(name)


def _part(packed: bytes, inventory: PastGroup) -> Part:
    arrays = read_arrays(io.BytesIO(packed), _MOST_BYTES)
    home = np.asarray(arrays.pop("home"), dtype=np.int64)
    found = {name: np.asarray(array, dtype=np.float64) for name, array in arrays.items()}
    hosts, domains = len(inventory.hosts), len(inventory.domains)
    steps = len(home)
    for name, shape in (
        ("cpu_ratio", (steps, hosts)),
        ("memory_ratio", (steps, hosts)),
        ("cores", (steps, domains)),
        ("delay", (steps, domains)),
        ("held_bytes", (domains,)),
    ):
        if found[name].shape != shape:
            raise ValueError(f"expected {name} of the shape {shape}, got {found[name].shape}")
    if home.shape != (steps, domains) or (home < -1).any() or (home >= hosts).any():
        raise ValueError("expected the numbers of hosts as places")
    for name in ("cores", "delay", "held_bytes"):
        if not (np.isfinite(found[name]) & (found[name] >= 0)).all():
            raise ValueError(f"expected {name} of at least 0")
    left_out = int(found.pop("left_out"))
    return Part(home=home, left_out=left_out, **found)


def fleet_of(inventory: PastGroup, *, hidden: bool) -> Fleet:
    """The recorded hosts and domains as a fleet to simulate.

    ``hidden``: domains want what they ran and waited for, and lose what they do not get.
    """
    hosts, domains = inventory.hosts, inventory.domains
    return Fleet(
        host_names=tuple(one.name for one in hosts),
        cpus=np.array([one.cpus for one in hosts], dtype=np.float64),
        host_memory_bytes=np.array([one.memory_bytes for one in hosts], dtype=np.float64),
        link_bytes_per_second=np.array([one.link_bytes_per_second or np.nan for one in hosts], dtype=np.float64),
        domain_names=tuple(one.name for one in domains),
        uuids=tuple(one.uuid for one in domains),
        vcpus=np.array([one.vcpus for one in domains], dtype=np.float64),
        memory_bytes=np.array([one.memory_bytes for one in domains], dtype=np.float64),
        dirty_bytes_per_second=np.zeros(len(domains)),
        elastic=np.full(len(domains), not hidden),
    )


def demands(part: Part, fleet: Fleet, *, hidden: bool) -> Iterable[StepDemand]:
    """What each step of a part asks of the group. ``hidden``: as of ``fleet_of``."""
    nothing = np.zeros(fleet.domains)
    up = np.ones(fleet.hosts, dtype=np.bool_)
    for step in range(len(part)):
        home, ran = part.home[step], part.cores[step]
        seen = ~np.isnan(part.cpu_ratio[step])
        place, runs = np.maximum(home, 0), home >= 0
        used = on_hosts(place, ran * runs, fleet.hosts)
        held = on_hosts(place, part.held_bytes * runs, fleet.hosts)
        busy = np.where(seen, part.cpu_ratio[step], 0.0) * fleet.cpus
        memory = np.nan_to_num(part.memory_ratio[step]) * fleet.host_memory_bytes
        yield StepDemand(
            cores=np.minimum(ran + part.delay[step], fleet.vcpus) if hidden else ran,
            memory_bytes=part.held_bytes,
            rx=nothing,
            tx=nothing,
            home=home,
            own_cores=np.maximum(busy - used, 0.0),
            own_memory_bytes=np.maximum(memory - held, 0.0),
            up=up,
            seen=seen,
        )
