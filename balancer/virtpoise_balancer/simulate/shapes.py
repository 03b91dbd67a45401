"""Shapes of load: what a domain wants over time. Each follows from the scenario, the seed and the domain's number."""

from __future__ import annotations

import csv
import io
import math
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, BinaryIO, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from virtpoise_balancer.analyse.demand import Floats
from virtpoise_balancer.config.section import Section
from virtpoise_balancer.errors import BadInput
from virtpoise_balancer.simulate.npz import read_arrays

_MINUTE = 60.0
_GIB = 2**30
Cores = Annotated[float, Field(ge=0, le=8192)]
Minutes = Annotated[float, Field(ge=0, le=527040)]
LongMinutes = Annotated[float, Field(ge=0.001, le=527040)]
# A trace's file, and what it unpacks to. A thousand domains have a month of 5-minute figures in half of this.
_MOST_BYTES = 2**27


@dataclass(frozen=True, slots=True)
class Grid:
    """The middles of the steps in minutes from the beginning, and where chance comes from.

    ``number``: of the domain among those of its entry. ``vcpus``: its own. ``folder``: of the scenario's file.
    """

    minutes: Floats
    step_minutes: float
    random: np.random.Generator
    number: int
    vcpus: int
    folder: Path


class Constant(Section):
    """A constant load."""

    shape: Literal["constant"]
    cores: Cores

    def wanted(self, grid: Grid) -> Floats:
        return np.full(len(grid.minutes), self.cores)


class StepChange(Section):
    """A load of ``cores`` at first, of ``to_cores`` from ``at_minutes`` on, for good or for ``for_minutes``."""

    shape: Literal["step"]
    cores: Cores = 0.0
    to_cores: Cores
    at_minutes: Minutes
    for_minutes: LongMinutes | None = None

    def wanted(self, grid: Grid) -> Floats:
        until = math.inf if self.for_minutes is None else self.at_minutes + self.for_minutes
        on = (grid.minutes >= self.at_minutes) & (grid.minutes < until)
        return np.where(on, self.to_cores, self.cores)


class Wave(Section):
    """A sine about ``mean_cores``, by ``amplitude_cores`` up and down.

    ``phase_ratio``: how far into its period it begins.
    """

    shape: Literal["wave"]
    mean_cores: Cores
    amplitude_cores: Cores
    period_minutes: LongMinutes = 1440.0
    phase_ratio: Annotated[float, Field(ge=0, le=1)] = 0.0

    def wanted(self, grid: Grid) -> Floats:
        turns = grid.minutes / self.period_minutes + self.phase_ratio
        return np.asarray(self.mean_cores + self.amplitude_cores * np.sin(2 * math.pi * turns))


class Wandering(Section):
    """Chance about ``mean_cores``, with a standard deviation of ``deviation_ratio`` times that.

    It is a first-order autoregressive process: what it was ``memory_minutes`` ago counts for 1/e.
    """

    shape: Literal["wandering"]
    mean_cores: Cores
    deviation_ratio: Annotated[float, Field(ge=0, le=10)]
    memory_minutes: LongMinutes

    def wanted(self, grid: Grid) -> Floats:
        kept = math.exp(-grid.step_minutes / self.memory_minutes)
        news = grid.random.normal(0.0, math.sqrt(1 - kept * kept), len(grid.minutes))
        state = grid.random.normal()
        walked = np.empty(len(news))
        for at, new in enumerate(news.tolist()):
            state = kept * state + new
            walked[at] = state
        return np.asarray(self.mean_cores * (1 + self.deviation_ratio * walked))


class Spike(Section):
    """A load of ``cores``, and of ``peak_cores`` for ``for_minutes``, once in ``every_minutes``, at a moment of chance
    in each.
    """

    shape: Literal["spike"]
    cores: Cores = 0.0
    peak_cores: Cores
    every_minutes: LongMinutes
    for_minutes: LongMinutes

    @model_validator(mode="after")
    def _fits(self) -> Spike:
        if self.for_minutes > self.every_minutes:
            raise ValueError("for_minutes of at most every_minutes")
        return self

    def wanted(self, grid: Grid) -> Floats:
        period = np.floor(grid.minutes / self.every_minutes).astype(int)
        begins = grid.random.random(int(period.max(initial=0)) + 1) * (self.every_minutes - self.for_minutes)
        into = grid.minutes - period * self.every_minutes - begins[period]
        return np.where((into >= 0) & (into < self.for_minutes), self.peak_cores, self.cores)


class Leak(Section):
    """No CPU, but memory: from ``from_ratio`` of the domain's own it grows by ``gib_per_hour``, until it holds all."""

    shape: Literal["leak"]
    gib_per_hour: Annotated[float, Field(gt=0, le=2**20)]
    from_ratio: Annotated[float, Field(ge=0, le=1)] = 0.2
    at_minutes: Minutes = 0.0

    def wanted(self, grid: Grid) -> Floats:
        return np.zeros(len(grid.minutes))

    def held_bytes(self, grid: Grid, memory_bytes: float) -> Floats:
        hours = np.maximum(grid.minutes - self.at_minutes, 0.0) / 60
        held = self.from_ratio * memory_bytes + hours * self.gib_per_hour * _GIB
        return np.minimum(held, memory_bytes)


class Trace(Section):
    """What was recorded: each row of a file is one domain, each number a percentage of its vCPUs.

    ``step_minutes``: from one number to the next.

    ``file``: beside the scenario or in a folder there; ``.csv`` or ``.npz``, of which ``array`` names one. Rows are
    taken in turn.
    """

    shape: Literal["trace"]
    file: Path
    array: str | None = None
    step_minutes: LongMinutes = 5.0

    @field_validator("file")
    @classmethod
    def _beside(cls, file: Path) -> Path:
        """A scenario comes with its files; one of a stranger's reads no other."""
        if file.is_absolute() or ".." in file.parts:
            raise ValueError("a file beside the scenario")
        return file

    def wanted(self, grid: Grid) -> Floats:
        rows = self.rows(grid.folder)
        row = rows[grid.number % len(rows)]
        at = (grid.minutes / self.step_minutes).astype(int)
        return np.asarray(row[np.minimum(at, len(row) - 1)] / 100 * grid.vcpus)

    def rows(self, folder: Path) -> Floats:
        """The rows of the file. BadInput when it has none that can be used."""
        path = folder / self.file
        try:
            with _opened(path) as file:
                rows = self._packed(file) if path.suffix == ".npz" else _written(file)
        except OSError as error:
            raise BadInput(f"{path}: cannot be read: {error.strerror}") from None
        except (TypeError, ValueError, csv.Error):
            raise BadInput(f"{path}: expected rows of numbers, all of one length") from None
        if rows.ndim != 2 or not rows.size or not np.isfinite(rows).all() or (rows < 0).any():
            raise BadInput(f"{path}: expected rows of percentages, all of one length")
        return rows

    def _packed(self, file: BinaryIO) -> Floats:
        arrays = read_arrays(file, _MOST_BYTES)
        name = self.array or next(iter(arrays), None)
        if name not in arrays:
            raise BadInput(f"{self.file}: expected an array {self.array!r}")
        return np.asarray(arrays[name], dtype=float)


def _opened(path: Path) -> BinaryIO:
    """The file, to read. BadInput for what has no end, such as a device; OSError."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # opening a FIFO would wait for a writer
    file = os.fdopen(handle, "rb")
    found = os.fstat(handle)
    if stat.S_ISREG(found.st_mode) and found.st_size <= _MOST_BYTES:
        return file
    file.close()
    raise BadInput(f"{path}: expected a regular file of at most {_MOST_BYTES} bytes")


def _written(file: BinaryIO) -> Floats:
    with io.TextIOWrapper(file, encoding="utf-8", newline="") as lines:
        return np.array([np.array(row, dtype=float) for row in csv.reader(lines) if row])


Shape = Annotated[Constant | StepChange | Wave | Wandering | Spike | Leak | Trace, Field(discriminator="shape")]
