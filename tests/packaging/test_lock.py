"""The lock files have a version and hashes for each package that pyproject.toml asks for, and name no registry."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
PYTHONS = ("3.11.0", "3.12.0", "3.13.0")
Lock = list[tuple[Requirement, int]]


def read_lock(name: str) -> Lock:
    """Each locked package, and how many hashes it has."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text().replace("\\\n", "")
    return [(Requirement(line.partition(" --hash")[0]), line.count(" --hash=sha256:")) for line in text.splitlines()]


def on(lock: Lock, python: str) -> dict[str, str]:
    """Versions by name on Linux with this Python."""
    place = {
        "python_full_version": python,
        "python_version": python[:4],
        "sys_platform": "linux",
        "platform_system": "Linux",
    }
    found: dict[str, str] = {}
    for requirement, _ in lock:
        if requirement.marker is None or requirement.marker.evaluate(place):
            assert canonicalize_name(requirement.name) not in found
            found[canonicalize_name(requirement.name)] = str(requirement.specifier).removeprefix("==")
    return found


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("name", EXTRAS)
def test_a_lock_file_has_what_its_extra_asks_for(name: str, python: str) -> None:
    locked, everything = on(read_lock(name), python), on(read_lock("dev"), python)
    for asked in [Requirement(one) for extra, wanted in EXTRAS.items() if name in (extra, "dev") for one in wanted]:
        version = locked.get(canonicalize_name(asked.name))
        assert version is not None, f"{asked} is not in requirements/{name}.txt: run scripts/lock"
        assert asked.specifier.contains(version), f"{asked}: {version} is locked: run scripts/lock"
    assert locked.items() <= everything.items(), "what is shipped is not what is tested: run scripts/lock"


@pytest.mark.parametrize("name", EXTRAS)
def test_each_locked_package_has_hashes_and_no_address(name: str) -> None:
    for requirement, hashes in read_lock(name):
        assert hashes > 0
        assert requirement.url is None
        assert re.fullmatch(r"==[\w.!+]+", str(requirement.specifier))


@pytest.mark.parametrize("name", ["exporter", "balancer"])
def test_a_release_lists_each_package_that_is_shipped_with_its_hashes(name: str, tmp_path: Path) -> None:
    """By the command of scripts/release."""
    release = (ROOT / "scripts" / "release").read_text().replace("\\\n", "")
    (typed,) = re.findall(r'"\$bin/cyclonedx-py" ([^\n]*)', release)
    written = tmp_path / "list.json"
    options = typed.replace('"', "").replace("$daemon", name).replace(f"dist/virtpoise-{name}.cdx.json", str(written))
    subprocess.run([Path(sys.executable).with_name("cyclonedx-py"), *options.split()], cwd=ROOT, check=True)
    listed = json.loads(written.read_text())
    assert listed["metadata"]["component"]["name"] == "virtpoise"
    locked = {(requirement.name, str(requirement.specifier).removeprefix("==")) for requirement, _ in read_lock(name)}
    assert {(one["name"], one["version"]) for one in listed["components"]} == locked
    assert all(reference["hashes"] for one in listed["components"] for reference in one["externalReferences"])
