"""Disk images that all hosts share, and that QEMU locks, as on a network file system."""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

_IMAGE_BYTES = 1 << 20
# Where a QEMU says by its locks what it does to an image, and what it lets no other do (block/file-posix.c). It looks
# at those of others when it takes the image over, and not again.
_DOES, _ALONE, _WRITE = 100, 200, 1
# struct flock: type, whence, start, length and process
_FLOCK = struct.Struct("hhqqi4x")


class Images:
    """One for each domain, in a folder that is at the same path on each host."""

    def __init__(self, domains: Iterable[str]) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="virtpoise-images-", dir="/var/tmp"))
        self.paths = {name: self._folder / name for name in domains}
        for path in self.paths.values():
            path.write_bytes(bytes(_IMAGE_BYTES))

    def close(self) -> None:
        shutil.rmtree(self._folder)

    @contextmanager
    def held(self) -> Iterator[None]:
        """In the block, each is locked as by one more QEMU that writes to it."""
        with ExitStack() as opened:
            for path in self.paths.values():
                image = os.open(path, os.O_RDWR | os.O_CLOEXEC)
                opened.callback(os.close, image)
                for byte in (_DOES + _WRITE, _ALONE + _WRITE):
                    fcntl.fcntl(image, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, byte, 1, 0))
            yield
