"""What the lab needs of the machine, checked before anything is started."""

import importlib.util
import os
import shutil
from pathlib import Path

from virtpoise_lab.artefacts import CACHE
from virtpoise_lab.errors import LabError

LXCFS = CACHE / "lxcfs" / "usr" / "bin" / "lxcfs"
_FUSE = CACHE / "libfuse3"
LXCFS_LIBRARIES = (
    CACHE / "lxcfs/usr/lib/x86_64-linux-gnu/lxcfs",
    _FUSE / "lib/x86_64-linux-gnu",  # Debian 12
    _FUSE / "usr/lib/x86_64-linux-gnu",  # Debian 13
)

_PROGRAMS = {
    "libvirtd": "libvirt-daemon",
    "qemu-system-x86_64": "qemu-system-x86",
    "ip": "iproute2",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "mount": "mount",
    "gcc": "gcc",
    "lz4": "lz4",
}


def missing() -> str | None:
    """One line that says what is missing and what to do; None if nothing is."""
    if os.geteuid() != 0:
        return "the lab makes namespaces and cgroups: run it as root"
    packages = sorted({package for program, package in _PROGRAMS.items() if not shutil.which(program)})
    if packages:
        return f"not installed: {', '.join(packages)}: run scripts/setup"
    if importlib.util.find_spec("libvirt") is None:
        return "the Python package libvirt-python is not installed: run scripts/setup"
    for path in (LXCFS, _FUSE, CACHE / "linux-image-cloud-amd64" / "boot"):
        if not path.exists():
            return f"{path} is missing: run scripts/setup"
    for device in ("/dev/fuse", "/dev/net/tun"):
        if not Path(device).exists():
            return f"{device} is missing: this machine (or container) must offer it"
    return None


def check() -> None:
    """Raises LabError if something is missing."""
    line = missing()
    if line:
        raise LabError(line)
