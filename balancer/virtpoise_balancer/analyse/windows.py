"""Windows of readings (newest last) as arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from virtpoise_balancer.analyse.demand import Floats


def by_length(windows: Sequence[Sequence[float]], most: int) -> Iterator[tuple[NDArray[np.intp], Floats]]:
    """The windows' newest readings, at most so many of each: for each length the numbers of the windows, and rows x readings."""
    lengths = np.minimum(np.fromiter(map(len, windows), np.int64, len(windows)), most)
    for length in np.unique(lengths[lengths > 0]).tolist():
        rows = np.flatnonzero(lengths == length)
        readings = chain.from_iterable(windows[row][-length:] for row in rows.tolist())
        yield rows, np.fromiter(readings, np.float64, len(rows) * length).reshape(-1, length)


def newest(windows: Sequence[Sequence[float]], count: int) -> Floats:
    """The windows' newest readings, at most so many of each (windows x readings), NaN before the first of a shorter one."""
    known = list(by_length(windows, count))
    longest = max((readings.shape[1] for _, readings in known), default=0)
    result = np.full((len(windows), longest), np.nan)
    for rows, readings in known:
        result[rows, longest - readings.shape[1] :] = readings
    return result
