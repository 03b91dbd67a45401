"""What machines boot from: Debian trees with what an administrator has before virtpoise comes, and the Python packages
it needs.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

from virtpoise_lab import state
from virtpoise_lab.artefacts import CACHE
from virtpoise_lab.errors import LabError

# By name, with the version of its Python.
SUITES = {"bookworm": "3.11", "trixie": "3.13"}
# No package of these recommends anything here: above all libnss-systemd is left out, as on many servers.
_PACKAGES = (
    "ca-certificates",
    "curl",
    "dbus",
    "gcc",
    "iproute2",
    "libc6-dev",
    "libpam-systemd",
    "libvirt-clients",
    "libvirt-daemon-system",
    "libvirt-dev",
    "netbase",
    "openssh-client",
    "openssh-server",
    "openssl",
    "pkg-config",
    "polkitd",
    "procps",
    "prometheus",
    "python3-dev",
    "python3-venv",
    "qemu-system-x86",
    "qemu-utils",
    "systemd",
    "systemd-sysv",
)
_PLATFORMS = ("2_36", "2_28", "2_27", "2_17", "2014", "2_5", "1")
# Built in the tree, since it is compiled against the tree's libvirt.
_COMPILED = "libvirt-python"


def tree(suite: str) -> Path:
    """The suite's tree, built when it is missing. Takes minutes the first time. LabError when it cannot be built."""
    key = hashlib.sha256(repr((suite, _PACKAGES)).encode()).hexdigest()[:16]
    made = CACHE / "machines" / f"{suite}-{key}"
    made.parent.mkdir(parents=True, exist_ok=True)
    with state.locked(made.parent):
        if not made.exists():
            _empty(made.parent, f"{suite}-")
            partial = made.with_name(f"{suite}.partial")
            _run("debootstrap", "--variant=minbase", f"--include={','.join(_PACKAGES)}", suite, str(partial))
            shutil.rmtree(partial / "var/cache/apt/archives")
            partial.rename(made)
    return made


def wheels(suite: str, project: Path) -> Path:
    """A folder with a wheel of each package that the project's extras for its daemons need, made when those are new."""
    extras = tomllib.loads((project / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    wanted = sorted({*extras["exporter"], *extras["balancer"]})
    key = hashlib.sha256(repr((suite, wanted)).encode()).hexdigest()[:16]
    root = tree(suite)
    made = CACHE / "machines" / f"wheels-{suite}-{key}"
    with state.locked(made.parent):
        if not made.exists():
            _empty(made.parent, f"wheels-{suite}")
            partial = made.with_name(f"wheels-{suite}.partial")
            partial.mkdir()
            _download(partial, SUITES[suite], [one for one in wanted if not one.startswith(_COMPILED)])
            _compile(partial, root, next(one for one in wanted if one.startswith(_COMPILED)))
            partial.rename(made)
    return made


def _download(folder: Path, python: str, wanted: Sequence[str]) -> None:
    platforms = [f"--platform=manylinux{'' if one.startswith(('20', '1')) else '_'}{one}_x86_64" for one in _PLATFORMS]
    target = ["--only-binary=:all:", "--implementation=cp", f"--python-version={python}", *platforms]
    _pip("download", "--quiet", f"--dest={folder}", *target, "setuptools", *wanted)


def _compile(folder: Path, root: Path, wanted: str) -> None:
    _pip("download", "--quiet", "--no-deps", f"--no-binary={_COMPILED}", f"--dest={folder}", wanted)
    inside = root / "wheels"
    shutil.copytree(folder, inside)
    try:
        work = "python3 -m venv /wheels/venv && cd /wheels && exec venv/bin/pip wheel --no-index --find-links=. --no-deps *.tar.gz"
        _run("chroot", str(root), "sh", "-c", work)
        for wheel in inside.glob("libvirt_python-*.whl"):
            shutil.copy(wheel, folder)
    finally:
        shutil.rmtree(inside)
    for source in folder.glob("*.tar.gz"):
        source.unlink()


def _empty(folder: Path, prefix: str) -> None:
    """Removes what is out of date, and what an interrupted build has left."""
    for old in [*folder.glob(f"{prefix}*"), *folder.glob(f"{prefix.rstrip('-')}.partial")]:
        shutil.rmtree(old)


def _pip(*arguments: str) -> None:
    _run(sys.executable, "-m", "pip", *arguments)


def _run(*command: str) -> None:
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if ran.returncode:
        raise LabError(f"{' '.join(command)[:200]}: {(ran.stderr or ran.stdout).strip()[-500:]}")
