from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from virtpoise_balancer.analyse.windows import by_length, newest

windows = st.lists(st.lists(st.floats(0, 1), max_size=8), max_size=6)


@given(windows, st.integers(1, 65536))
def test_the_newest_readings_of_each_window_end_its_row(windows: list[list[float]], count: int) -> None:
    rows = newest(windows, count)
    assert len(rows) == len(windows)
    for row, window in zip(rows.tolist(), windows, strict=True):
        readings = window[-count:]
        assert row[len(row) - len(readings) :] == readings
        assert np.isnan(row[: len(row) - len(readings)]).all()


@given(windows, st.integers(1, 10))
def test_every_window_that_is_not_empty_comes_once(windows: list[list[float]], most: int) -> None:
    told = {
        int(row): list(read)
        for rows, readings in by_length(windows, most)
        for row, read in zip(rows, readings, strict=True)
    }
    assert told == {row: window[-most:] for row, window in enumerate(windows) if window}
