"""What is read from the history: the place of a domain, what is missing, and recordings on disk."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from virtpoise_balancer.config import Config
from virtpoise_balancer.errors import BadInput
from virtpoise_balancer.monitor.history import Part, PastDomain, PastGroup, PastHost, _carry, _nothing
from virtpoise_balancer.simulate import recording
from virtpoise_balancer.simulate.backtest import Backtest, at_step, backtest
from virtpoise_balancer.simulate.loop import Course
from virtpoise_balancer.simulate.recording import RecordingFile, anonymous
from virtpoise_balancer.simulate.report import html

GIB = 2**30
NAN = np.nan


def inventory(steps: int, domains: int = 8, *, waited_ratio: float | None = None) -> PastGroup:
    return PastGroup(
        start=1_700_000_040.0,
        step_seconds=60.0,
        steps=steps,
        hosts=tuple(PastHost(name=name, cpus=4, memory_bytes=64 * GIB) for name in ("alpha", "beta")),
        domains=tuple(
            PastDomain(name=f"secret{n}", uuid=f"u{n}", vcpus=4, memory_bytes=4 * GIB) for n in range(domains)
        ),
        waited_ratio=waited_ratio,
    )


def part(cores: float, steps: int, *, domains: int = 8, delay: float = 0.0) -> Part:
    """All domains on the first host, each using as much; the second one is idle."""
    home = np.zeros((steps, domains), dtype=np.int64)
    used = np.array([min(cores * domains + 0.2, 4.0) / 4, 0.05])
    return Part(
        cpu_ratio=np.tile(used, (steps, 1)),
        memory_ratio=np.tile(np.array([0.6, 0.1]), (steps, 1)),
        cores=np.full((steps, domains), cores),
        delay=np.full((steps, domains), delay),
        home=home,
        held_bytes=np.full(domains, 4.0 * GIB),
    )


def played(there: PastGroup, *parts: Part) -> Backtest:
    return backtest(there, parts, {"with": Config()}, now=0.0)


def test_without_a_balancer_hosts_are_as_busy_as_they_were() -> None:
    found = played(inventory(120), part(0.44, 60), part(0.3, 60))
    assert found.courses["without"].lower.overload_host_minutes == 60
    assert found.courses["with"].lower.overload_host_minutes < 6
    assert found.courses["with"].lower.moves >= 1
    assert found.hours["without"].tolist() == [60, 0]


def test_what_waited_is_bracketed() -> None:
    there = inventory(60, waited_ratio=0.2)
    found = played(there, part(0.38, 60, delay=0.08))
    lower, upper = found.courses["without"].lower, found.courses["without"].upper
    assert found.bracketed
    assert lower.overload_host_minutes == 60 * (0.38 * 8 + 0.2 >= 3.2)
    assert upper.overload_host_minutes == 60
    assert found.hidden_core_hours == pytest.approx(0.08 * 8)
    assert played(inventory(60), part(0.38, 60)).hidden_core_hours is None


def test_every_course_is_closed_where_the_history_breaks_off(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Iterator[Part]:
        yield part(0.3, 2)
        raise BadInput("Prometheus is gone")

    closed: list[Course] = []
    monkeypatch.setattr(Course, "close", lambda course: closed.append(course))
    with pytest.raises(BadInput):
        backtest(inventory(60), broken(), {"with": Config()}, now=0.0)
    monkeypatch.undo()
    assert len(closed) == 2
    for course in closed:
        course.close()


def test_gaps_are_told_and_nothing_is_counted_in_them() -> None:
    dark = part(0.44, 10)
    dark.cpu_ratio[:] = NAN
    found = played(inventory(40), part(0.44, 10), dark, part(0.44, 20))
    assert found.gaps == ((1_700_000_640.0, 1_700_001_240.0),)
    assert found.courses["without"].lower.overload_host_minutes == 30
    assert found.known_ratio == {"alpha": 0.75, "beta": 0.75}


def test_a_domain_without_a_sample_stays_for_three_steps_and_while_its_host_is_dark() -> None:
    cores = np.array([[1.0], [NAN], [NAN], [NAN], [NAN], [2.0], [NAN], [NAN]])
    home = np.where(np.isnan(cores), -1, 0).astype(np.int64)
    cpu = np.array([[0.5]] * 6 + [[NAN]] * 2)
    delay = np.zeros_like(cores)
    carried = _nothing(1)
    _carry(cpu, cores, delay, home, carried)
    assert home[:, 0].tolist() == [0, 0, 0, 0, -1, 0, 0, 0]
    assert cores[:, 0].tolist() == [1, 1, 1, 1, 0, 2, 2, 2]
    later = np.array([[NAN]] * 3)
    place = np.full((3, 1), -1)
    _carry(np.array([[NAN]] * 3), later, np.zeros((3, 1)), place, carried)
    assert place[:, 0].tolist() == [0, 0, 0]  # the next part goes on where this one ended


def test_samples_become_steps_that_last_as_long() -> None:
    config = Config.model_validate({"policy": {"cpu": {"consecutive": 30}, "memory": {"consecutive": 3}}})
    scaled = at_step(config, 60.0)
    assert scaled.interval_seconds == 60
    assert (scaled.policy.cpu.consecutive, scaled.policy.memory.consecutive) == (5, 1)
    assert scaled.policy.cpu.threshold == config.policy.cpu.threshold
    assert scaled.measurement.window_seconds == 240


def test_a_recording_is_read_as_it_was_written(tmp_path: Path) -> None:
    there, file = inventory(20), RecordingFile(tmp_path / "recording")
    file.begin(there)
    kept = [file.append(part(0.44, 10)), file.append(part(0.3, 10))]
    assert file.inventory() == anonymous(there)
    assert b"secret" not in file.path.read_bytes()
    for written, read in zip(kept, file.parts(), strict=True):
        for name in ("cpu_ratio", "memory_ratio", "cores", "delay", "home", "held_bytes"):
            assert np.array_equal(getattr(written, name), getattr(read, name))
    assert kept[0].cores[0, 0] == pytest.approx(0.44, rel=1e-3)
    with pytest.raises(BadInput, match="cannot be written: File exists"):
        file.begin(there)


def damaged(folder: Path, **changes: bytes | str) -> RecordingFile:
    """A recording with other files in it."""
    there, file = inventory(10), RecordingFile(folder / "recording")
    file.begin(there)
    file.append(part(0.44, 10))
    with zipfile.ZipFile(file.path) as archive:
        found: dict[str, bytes | str] = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file.path, "w") as archive:
        for name, content in (found | changes).items():
            archive.writestr(name, content)
    return file


@pytest.mark.parametrize(
    "head",
    [
        "no JSON",
        "[]",
        "{}",
        json.dumps({"format": "virtpoise/recording/1"}),
        json.dumps({"format": "virtpoise/recording/1", "start": "x", "step_seconds": 1, "steps": 1, "hosts": 3}),
        json.dumps(
            {"format": "virtpoise/recording/1", "start": 0, "step_seconds": 0, "steps": 1, "hosts": [], "domains": []}
        ),
    ],
)
def test_a_file_that_is_no_recording_is_refused(tmp_path: Path, head: str) -> None:
    with pytest.raises(BadInput, match="expected a recording"):
        damaged(tmp_path, **{"recording.json": head}).inventory()


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04"])
def test_a_part_that_is_damaged_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(BadInput, match=r"part-00000\.npz: cannot be read"):
        list(damaged(tmp_path, **{"part-00000.npz": content}).parts())


def test_whatever_byte_of_a_recording_is_wrong_it_is_refused_in_one_line_or_read(tmp_path: Path) -> None:
    """It comes with a bug report."""
    file = damaged(tmp_path)
    content = file.path.read_bytes()
    for at in range(0, len(content), 29):
        file.path.write_bytes(content[:at] + bytes([content[at] ^ 0x55]) + content[at + 1 :])
        with suppress(BadInput):
            list(file.parts())


@pytest.mark.parametrize("of", ["head", "part", "array", "shape"])
def test_a_recording_that_would_unpack_to_more_than_fits_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of: str
) -> None:
    monkeypatch.setattr(recording, "_MOST_BYTES", 2**20)
    zeros = bytes(2**21)
    packed, header = io.BytesIO(), io.BytesIO()
    np.savez_compressed(packed, cores=np.zeros(2**18))
    if of == "shape":
        np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (2**50,)})
        with zipfile.ZipFile(packed, "w") as archive:
            archive.writestr("cores.npy", header.getvalue())
    changes = {"head": {"recording.json": zeros}, "part": {"part-00000.npz": zeros}}
    file = damaged(tmp_path, **changes.get(of, {"part-00000.npz": packed.getvalue()}))
    with pytest.raises(BadInput, match="damaged" if of == "head" else "too large|allocate"):
        list(file.parts())


def test_a_part_of_another_shape_is_refused(tmp_path: Path) -> None:
    other = RecordingFile(tmp_path / "other")
    other.begin(inventory(10, domains=3))
    other.append(part(0.44, 10, domains=3))
    with zipfile.ZipFile(other.path) as archive:
        content = archive.read("part-00000.npz")
    with pytest.raises(BadInput, match="expected cores of the shape"):
        list(damaged(tmp_path, **{"part-00000.npz": content}).parts())


def test_a_report_shows_names_as_they_are() -> None:
    there = inventory(60)
    hosts = (replace(there.hosts[0], name="<script>alert(1)</script>"), there.hosts[1])
    page = html(backtest(replace(there, hosts=hosts), [part(0.44, 60)], {"with <b>.yml": Config()}, now=0.0), 0.8)
    assert "<script>" not in page
    assert "<b>" not in page
    assert "&lt;script&gt;" in page
    assert page.count("<polyline") == 2
