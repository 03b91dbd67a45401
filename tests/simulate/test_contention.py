"""The law of sharing CPUs, against the measurements on real QEMU domains in docs/scoring.md."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from virtpoise_balancer.simulate.contention import share


def shared(
    wanted: list[float], *, elastic: bool, cpus: float = 1.0, vcpus: float = 1.0
) -> tuple[list[float], list[float]]:
    """What each of several domains on one host runs, and waits for."""
    n = len(wanted)
    got = share(np.zeros(n, dtype=np.int64), np.array(wanted), np.full(n, vcpus), np.full(n, elastic), np.array([cpus]))
    return got.run.tolist(), got.delay.tolist()


@pytest.mark.parametrize(
    ("wanted", "ran", "load"),
    [
        ([0.807, 0.716, 0.643], [0.367, 0.319, 0.275], 0.98),
        ([0.694, 0.619], [0.468, 0.394], 0.889),
        ([0.783], [0.783], 0.783),
        ([0.786, 0.698], [0.5, 0.414], 0.93),
    ],
)
def test_guests_of_a_fixed_rate_get_what_was_measured(wanted: list[float], ran: list[float], load: float) -> None:
    run, delay = shared(wanted, elastic=False)
    assert run == pytest.approx(ran, abs=0.04)
    assert sum(run) == pytest.approx(load, abs=0.04)
    assert [a + b for a, b in zip(run, delay, strict=True)] == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("wanted", "ran"),
    [
        ([0.65, 0.45, 0.27], [0.357, 0.333, 0.239]),
        ([0.468, 0.289], [0.468, 0.289]),
        ([0.65], [0.643]),
        ([0.46, 0.367], [0.46, 0.367]),
    ],
)
def test_elastic_guests_get_what_was_measured(wanted: list[float], ran: list[float]) -> None:
    run, delay = shared(wanted, elastic=True)
    assert run == pytest.approx(ran, abs=0.04)
    assert (max(delay) > 0.05) == (len(wanted) > 1)


@given(
    st.lists(st.tuples(st.floats(0, 8), st.integers(1, 8), st.booleans(), st.integers(-1, 2)), min_size=1, max_size=20),
    st.lists(st.integers(1, 16), min_size=3, max_size=3),
)
def test_no_host_runs_more_than_it_has_and_no_domain_more_than_it_wants(
    domains: list[tuple[float, int, bool, int]], cpus: list[int]
) -> None:
    wanted, vcpus, elastic, at = (np.array(column) for column in zip(*domains, strict=True))
    got = share(at, wanted.astype(float), vcpus.astype(float), elastic, np.array(cpus, dtype=float))
    assert (got.used <= np.array(cpus) + 1e-6).all()
    assert (got.run <= np.minimum(wanted, vcpus) + 1e-9).all()
    assert (got.run >= 0).all()
    assert (got.delay >= -1e-9).all()
    assert (got.run + got.delay <= vcpus + 1e-6).all()
    assert not got.run[at < 0].any()
