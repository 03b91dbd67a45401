"""Files that come with a bug report: scenarios with their traces, recordings, snapshots. Whatever is in them, they are
refused in one line, or played.
"""

from __future__ import annotations

import io
import json
import os
import struct
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builders import domain, group, host
from virtpoise_balancer.config import Config
from virtpoise_balancer.errors import BadInput
from virtpoise_balancer.explain.explain import explain
from virtpoise_balancer.formats import read_snapshot, write_snapshot
from virtpoise_balancer.model import Policy
from virtpoise_balancer.monitor.history import PastDomain, PastGroup, PastHost
from virtpoise_balancer.plan import plan
from virtpoise_balancer.simulate import shapes
from virtpoise_balancer.simulate.backtest import backtest
from virtpoise_balancer.simulate.outcome import play_scenario
from virtpoise_balancer.simulate.recording import RecordingFile
from virtpoise_balancer.simulate.report import html
from virtpoise_balancer.simulate.scenario import read_scenario

pytestmark = pytest.mark.hostile

NAN = np.nan
# What an array says of itself, before its numbers. numpy evaluates it.
HEADERS = [
    b"{'descr': (",
    b"{[]: 1}",
    b"(" * 5000,
    b"{'descr': '|O', 'fortran_order': False, 'shape': (1, 1)}",
    b"{'descr': '<f8', 'fortran_order': False, 'shape': (True, 1)}",
    b"{'descr': '<f8', 'fortran_order': False, 'shape': (92233720368547758070, 2)}",
    b"{'descr': '<f8', 'fortran_order': False, 'shape': (-1, 1)}",
    b"{'descr': [('a', [('b',)])], 'fortran_order': False, 'shape': (1, 1)}",
    b"5",
]


def array_of(header: bytes) -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header) + 1) + header + b"\n" + bytes(16)


def packed(**contents: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            archive.writestr(f"{name}.npy", content)
    return file.getvalue()


def play(folder: Path, load: str) -> None:
    file = folder / "scenario.yml"
    file.write_text(
        "name: s\nduration_minutes: 2\nhosts: [{name: h, cpus: 4, memory_gib: 8}]\n"
        f"domains: [{{name: vm, memory_gib: 1, load: {{{load}}}}}]\n"
    )
    play_scenario(read_scenario(file), folder)


def link(to: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(to)


def content(of: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(of)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("t.csv", os.mkfifo),
        ("t.csv", link("/dev/zero")),
        ("t.csv", link("/dev/tty")),
        ("t.csv", Path.mkdir),
        ("t.csv", link("t.csv")),
        ("t.csv", content(b'"' + b"1" * 200_000 + b'"')),
        ("t.csv", content(b"1,\0\n")),
        ("t.csv", content(b"1,2\n3\n")),
        ("t.csv", content(b"1e999\n")),
        ("t.csv", content(b"\xff\xfe1\0")),
        ("t.npz", content(b"")),
        ("t.npz", content(b"PK\x03\x04")),
        ("t.npz", link("/dev/zero")),
        ("t.npz", content(packed(rows=b"hello"))),
        ("t.npz", content(packed(rows=bytes(2**21)))),
        *(("t.npz", content(packed(rows=array_of(header)))) for header in HEADERS),
    ],
)
def test_a_trace_that_is_none_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, make: Callable[[Path], object]
) -> None:
    monkeypatch.setattr(shapes, "_MOST_BYTES", 2**20)
    make(tmp_path / name)
    with pytest.raises(BadInput) as refusal:
        play(tmp_path, f"shape: trace, file: {name}")
    assert len(str(refusal.value).splitlines()) == 1
    assert len(str(refusal.value)) < 500


def test_a_scenario_reads_no_file_outside_its_folder(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "secret.csv").write_text("1,2\n")
    for file in ("../secret.csv", str(tmp_path / "secret.csv"), "own/../../secret.csv", "/dev/stdin"):
        with pytest.raises(BadInput, match=r"trace\.file: expected a file beside the scenario"):
            play(tmp_path / "own", f"shape: trace, file: {file}")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "t.csv").write_text("1,2\n")
    play(tmp_path, "shape: trace, file: more/t.csv")


@pytest.mark.parametrize(
    "load",
    [
        "shape: spike, peak_cores: 1, every_minutes: 0.0011, for_minutes: 0.001",
        "shape: spike, peak_cores: 1, every_minutes: 1.0e-300, for_minutes: 1.0e-300",
        "shape: wave, mean_cores: 1, amplitude_cores: 1, period_minutes: 1.0e-320",
        "shape: wandering, mean_cores: 1, deviation_ratio: 1, memory_minutes: 5.0e-324",
        "shape: trace, file: t.csv, step_minutes: 1.0e-320",
    ],
)
def test_a_load_that_changes_ever_faster_is_refused(tmp_path: Path, load: str) -> None:
    (tmp_path / "t.csv").write_text("1,2\n")
    with pytest.raises(BadInput, match="expected"):
        play(tmp_path, load)


# --- recordings -------------------------------------------------------------------------------------------------------

STEPS, DOMAINS = 10, 3


def recorded() -> tuple[dict[str, Any], dict[str, Any]]:
    """The head and the arrays of an honest recording."""
    there = PastGroup(
        start=1.7e9,
        step_seconds=60.0,
        steps=STEPS,
        hosts=tuple(PastHost(name=name, cpus=4, memory_bytes=2**36) for name in ("h1", "h2")),
        domains=tuple(PastDomain(name=f"d{n}", uuid=f"u{n}", vcpus=4, memory_bytes=2**32) for n in range(DOMAINS)),
        waited_ratio=0.5,
    )
    arrays = {
        "cpu_ratio": np.full((STEPS, 2), 0.9),
        "memory_ratio": np.full((STEPS, 2), 0.4),
        "cores": np.full((STEPS, DOMAINS), 0.9),
        "delay": np.full((STEPS, DOMAINS), 0.3),
        "home": np.zeros((STEPS, DOMAINS), dtype=int),
        "held_bytes": np.full(DOMAINS, 2.0**32),
        "left_out": np.array(0),
    }
    return {"format": "virtpoise/recording/1", **asdict(there)}, arrays


def replay(folder: Path, head: Mapping[str, Any], part: bytes) -> None:
    """BadInput unless it can be played."""
    with zipfile.ZipFile(folder / "recording", "w") as archive:
        archive.writestr("recording.json", json.dumps(head))
        archive.writestr("part-00000.npz", part)
    file = RecordingFile(folder / "recording")
    html(backtest(file.inventory(), list(file.parts()), {"with": Config()}, now=0.0), 0.8)


def saved(arrays: Mapping[str, Any]) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


@pytest.mark.parametrize("name", ["cpu_ratio", "memory_ratio", "cores", "delay", "held_bytes", "home", "left_out"])
def test_whatever_figure_a_recording_has_it_is_refused_in_one_line_or_played(tmp_path: Path, name: str) -> None:
    head, honest = recorded()
    replay(tmp_path, head, saved(honest))
    for value in (NAN, np.inf, -np.inf, -1.0, 1e308, 5e-324, 0.0):
        array = honest[name].astype(float)
        array.flat[0] = value
        with np.errstate(all="ignore"), suppress(BadInput):
            replay(tmp_path, head, saved({**honest, name: array}))


@pytest.mark.parametrize("header", HEADERS)
def test_an_array_that_is_none_is_refused_in_one_line(tmp_path: Path, header: bytes) -> None:
    with pytest.raises(BadInput, match=r"part-00000\.npz: cannot be read"):
        replay(tmp_path, recorded()[0], packed(cores=array_of(header)))


@pytest.mark.parametrize(
    "change",
    [
        {"start": 1e308},
        {"start": 2.6e11},
        {"step_seconds": 1e-300},
        {"step_seconds": 1e308},
        {"steps": 10**12},
        {"steps": 10**400},
        {"hosts": []},
        {"hosts": [{"name": "h", "cpus": 4, "memory_bytes": 2**36, "link_bytes_per_second": 5e-324}] * 2},
        {"hosts": [{"name": "h", "cpus": 10**30, "memory_bytes": 2**36}] * 2},
        {"waited_ratio": -1},
    ],
)
def test_a_group_that_cannot_have_been_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    head, arrays = recorded()
    with pytest.raises(BadInput):
        replay(tmp_path, head | change, saved(arrays))


# --- snapshots --------------------------------------------------------------------------------------------------------

ODD = (10**400, 10**30, 2**63, 1.7e308, 1e300, 5e-324, 1e-300, -1, 0)


def snapshot_document() -> dict[str, Any]:
    """A snapshot that has a figure of each kind."""
    found: dict[str, Any] = json.loads(
        write_snapshot(
            group(
                host("h1", 0.9, 0.9, 0.9),
                host("h2", 0.1, 0.1),
                host("h3", 0.3),
                domain("a", "h1", 3.0),
                domain("b", "h1", 0.4),
                domain("c", "h2", 0.1),
            )
        )
    )
    for one in found["hosts"]:
        one |= {"rx_ratio_window": [0.1, 0.9], "tx_ratio_window": [0.9, 0.95], "memory_ratio_window": [0.5]}
        one |= {"uplink_bytes_per_second": 125e6, "memory_reserved_bytes": 2**20, "copy_room": {"/p": 2**40}}
        one["hugepages_free"] = [{"page_bytes": 2**21, "memory_bytes": 2**30, "node": 0}]
    for one in found["domains"]:
        one |= {"rx_bytes_per_second": 5e7, "tx_bytes_per_second": 9e7, "rx_ratio": 0.4, "tx_ratio": 0.7}
        one |= {"dirty_bytes_per_second": 1e7, "memory_maximum_bytes": 2**29, "memory_resident_bytes": 2**28}
        one |= {"cpu_delay_cores": 0.2, "cpu_cores_unsaturated": 1.0, "cpu_delay_cores_unsaturated": 0.1}
    disk = {"device": "vda", "path": "/p/x", "format": "raw", "capacity_bytes": 2**30, "stored_bytes": 2**29}
    found["domains"][1]["copies"] = [disk]
    found["links"] = [{"source": "h1", "destination": "h2", "bytes_per_second": 1e8, "downtime_seconds": 0.3}]
    return found


def figures(of: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all numbers."""
    if isinstance(of, dict | list):
        parts = of.items() if isinstance(of, dict) else enumerate(of)
        return [found for key, value in parts for found in figures(value, (*path, key))]
    return [path] if isinstance(of, int | float) and not isinstance(of, bool) else []


FIGURES = [path for path in figures(snapshot_document()) if path[0] != "domains" or path[1] == 1]


@pytest.mark.parametrize("path", FIGURES, ids=lambda path: ".".join(map(str, path)))
def test_whatever_figure_a_snapshot_has_it_is_refused_or_planned_for(path: tuple[Any, ...]) -> None:
    for value in ODD:
        document = snapshot_document()
        place = document
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        with np.errstate(all="ignore"), suppress(BadInput):
            snapshot = read_snapshot(json.dumps(document), "s.json")
            made = plan(snapshot, Policy())
            for name in ("a", "h1"):
                explain(snapshot, Policy(), made, name)
