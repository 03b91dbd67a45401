"""What a guest boots: the packaged kernel and an initramfs that holds nothing but our own init and the network
driver.
"""

import hashlib
import os
import shutil
import struct
import subprocess
import threading
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

from virtpoise_lab.errors import LabError

CACHE = Path(os.environ.get("VIRTPOISE_CACHE", "/var/cache/virtpoise-lab"))
# Guests start side by side: the first builds and measures what is missing, the others wait for it.
_making = threading.RLock()

# The network card's modules and those they depend on, in the order in which they must be loaded.
MODULES = (
    "virtio/virtio_ring.ko",
    "virtio/virtio.ko",
    "virtio/virtio_pci_legacy_dev.ko",
    "virtio/virtio_pci_modern_dev.ko",
    "virtio/virtio_pci.ko",
    "../net/core/failover.ko",
    "net/net_failover.ko",
    "net/virtio_net.ko",
)

# In a packaged kernel: where the number of sectors before the compressed part is, and where the offset and length of
# that part. Its last four bytes are the size of what it holds.
_SETUP_SECTORS, _PAYLOAD, _SECTOR, _SIZE = 0x1F1, 0x248, 512, 4
_LZ4 = b"\x02\x21\x4c\x18"  # as `lz4 -l` begins


def kernel() -> Path:
    """The guests' kernel; LabError if its package was not unpacked.

    Decompressed where that is known how and lz4 is there: an emulated guest needs an eighth of its boot's CPU time for
    it. QEMU starts such a file by its PVH entry. Source: Documentation/x86/boot.rst of the kernel.
    """
    packaged = _only(CACHE / "linux-image-cloud-amd64" / "boot", "vmlinuz-*")
    plain = CACHE / "guest" / f"vmlinux-{packaged.name}-{packaged.stat().st_mtime_ns:x}"
    with _making:
        if plain.exists():
            return plain
        image = packaged.read_bytes()
        offset, length = struct.unpack_from("<II", image, _PAYLOAD)
        begin = (image[_SETUP_SECTORS] + 1) * _SECTOR + offset
        payload = image[begin : begin + length - _SIZE]
        if not payload.startswith(_LZ4) or shutil.which("lz4") is None:  # a demo host has none
            return packaged
        result = subprocess.run(["lz4", "-dc"], input=payload, capture_output=True, check=False)
        if result.returncode:
            raise LabError(f"lz4 cannot decompress {packaged}: {result.stderr.decode().strip()}")
        plain.parent.mkdir(parents=True, exist_ok=True)
        partial = plain.with_name(f"{plain.name}-{os.getpid()}")
        partial.write_bytes(result.stdout)
        partial.replace(plain)
    return plain


def initramfs() -> Path:
    """The guests' initramfs, built when its source, its compiler flags or the kernel's modules are new."""
    source = files("virtpoise_lab").joinpath("guest", "init.c").read_bytes()
    drivers = _only(CACHE / "linux-image-cloud-amd64" / "lib" / "modules", "*") / "kernel" / "drivers"
    compile_ = ["gcc", "-static", "-O2", "-pthread", "-s", "-x", "c", "-", "-o"]
    key = hashlib.sha256(b"\0".join([source, str(drivers).encode(), repr((compile_, MODULES)).encode()])).hexdigest()[
        :16
    ]
    image = CACHE / "guest" / f"initramfs-{key}"
    with _making:
        if image.exists():
            return image
        image.parent.mkdir(parents=True, exist_ok=True)
        init = image.with_name(f"init-{key}-{os.getpid()}")
        _compile(compile_, init, source)
        partial = image.with_name(f"{image.name}-{os.getpid()}")
        partial.write_bytes(b"".join(_cpio(init.read_bytes(), drivers)))
        init.unlink()
        partial.replace(image)
    return image


def tsc_khz() -> int:
    """How fast this machine's time stamp counter runs, which is what an emulated guest reads too. Measured once a boot.

    A guest that calibrates it while it boots on a busy CPU may be wrong by several times, and all its clocks with it.
    """
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    known = CACHE / "guest" / f"tsc-khz-{boot}"
    with _making:
        if not known.exists():
            said = subprocess.run([str(tsc_program())], capture_output=True, text=True, check=True).stdout.strip()
            partial = known.with_name(f"{known.name}-{os.getpid()}")
            partial.write_text(said)
            partial.replace(known)
    return int(known.read_text())


def tsc_program() -> Path:
    """What measures it; compiled when its source is new."""
    return _compiled("guest", "tsc", ["-static"])


def clock_library() -> Path:
    """What steps the clock of the processes that have it in LD_PRELOAD; compiled when its source is new."""
    return _compiled("chaos", "clock", ["-shared", "-fPIC"])


def _compiled(folder: str, name: str, flags: list[str]) -> Path:
    source = files("virtpoise_lab").joinpath(folder, f"{name}.c").read_bytes()
    program = CACHE / "guest" / f"{name}-{hashlib.sha256(source).hexdigest()[:16]}"
    with _making:
        if not program.exists():
            program.parent.mkdir(parents=True, exist_ok=True)
            partial = program.with_name(f"{program.name}-{os.getpid()}")
            _compile(["gcc", *flags, "-O2", "-x", "c", "-", "-o"], partial, source)
            partial.replace(program)
    return program


def _compile(command: list[str], program: Path, source: bytes) -> None:
    result = subprocess.run([*command, str(program)], input=source, capture_output=True, check=False)
    if result.returncode:
        raise LabError(f"gcc cannot compile {program.name}: {result.stderr.decode().strip()}")


def _only(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if not found:
        raise LabError(f"{folder}/{pattern} is missing: run scripts/setup")
    return found[-1]


def _cpio(init: bytes, drivers: Path) -> Iterator[bytes]:
    """An archive in the kernel's ``newc`` format (Documentation/driver-api/early-userspace/buffer-format.rst).

    Written here since cpio(1) packs device nodes only where they exist, and the kernel wants /dev/console at once.
    """
    directory, character_device, file = 0o040755, 0o020600, 0o100755
    yield _entry("dev", directory)
    yield _entry("dev/console", character_device, device=(5, 1))
    yield _entry("modules", directory)
    for number, module in enumerate(MODULES):
        path = drivers / module
        yield _entry(f"modules/{number}-{path.name}", file, path.read_bytes())
    yield _entry("init", file, init)
    yield _entry("TRAILER!!!", 0)


def _entry(name: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)) -> bytes:
    path = name.encode() + b"\0"
    # inode, mode, uid, gid, links, mtime, size, device's and special file's major and minor, name's length, checksum
    fields = (0, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(path), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields)
    return _padded(header + path) + _padded(data)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
