"""Windows of samples (newest last) as arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from virtpoise_balancer.analyse.demand import Floats


def by_length(windows: Sequence[Sequence[float]], most: int) -> Iterator[tuple[NDArray[np.intp], Floats]]:
    """Group windows by length, each cut to its newest ``most``. Yields (places of the windows, windows x samples)."""
    lengths = np.minimum(np.fromiter(map(len, windows), np.int64, len(windows)), most)
    for length in np.unique(lengths[lengths > 0]).tolist():
        rows = np.flatnonzero(lengths == length)
        some = windows if len(rows) == len(windows) else [windows[row] for row in rows.tolist()]
        samples = chain.from_iterable(map(itemgetter(slice(-length, None)), some))
        yield rows, np.fromiter(samples, np.float64, len(rows) * length).reshape(-1, length)


def newest(windows: Sequence[Sequence[float]], count: int) -> Floats:
    """The newest ``count`` samples of each window (windows x samples), NaN before the first of a shorter one."""
    known = list(by_length(windows, count))
    longest = max((samples.shape[1] for _, samples in known), default=0)
    result = np.full((len(windows), longest), np.nan)
    for rows, samples in known:
        result[rows, longest - samples.shape[1] :] = samples
    return result
