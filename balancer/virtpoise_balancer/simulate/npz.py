"""Arrays in a file of numpy's, which may come from a stranger."""

from __future__ import annotations

import zipfile
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray


def read_arrays(file: BinaryIO, most_bytes: int) -> dict[str, NDArray[Any]]:
    """The arrays by their names. ``most_bytes``: of all, unpacked.

    ValueError for a file that is damaged, that holds anything but plain arrays, or that would be larger.
    """
    try:
        if _unpacked_bytes(file) <= most_bytes:
            with np.load(file, allow_pickle=False) as arrays:
                return {name: np.asarray(arrays[name]) for name in arrays.files}
    except Exception as error:  # what an array says of itself is evaluated, and fails in as many ways
        raise ValueError((str(error) or "it is damaged").splitlines()[0]) from None
    raise ValueError("it is too large")


def _unpacked_bytes(file: BinaryIO) -> int:
    with zipfile.ZipFile(file) as archive:
        size = sum(one.file_size for one in archive.infolist())
    file.seek(0)
    return size
