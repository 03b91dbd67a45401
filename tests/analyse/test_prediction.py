"""Prediction: laws of the load formula, and the migrations that were measured on real domains (docs/scoring.md)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from virtpoise_balancer.analyse.demand import Demands, estimate
from virtpoise_balancer.analyse.prediction import own_cores, predict
from virtpoise_balancer.analyse.steady import NOISE_RATIO
from virtpoise_balancer.model import Domain


def domain(name: str, run: float, delay: float = 0.0, vcpus: int = 1, past: float | None = None) -> Domain:
    return Domain(
        name=name,
        uuid=name,
        host="h1",
        vcpus=vcpus,
        cpu_cores=run,
        cpu_delay_cores=delay,
        cpu_cores_unsaturated=past,
        cpu_delay_cores_unsaturated=None if past is None else 0.012,
    )


def estimated(domains: list[Domain], cpus: int, load: float) -> Demands:
    return estimate([domains], cpus=cpus, load=np.array([load]), saturated=np.array([load >= 0.9]))


def after(domains: list[Domain], load: float, leaving: set[str], *, cpus: int = 1) -> tuple[float, float]:
    demands = estimated(domains, cpus, load)
    own = own_cores(cpus, np.array([load]), demands, np.ones((1, len(domains))))
    present = np.array([[float(one.name not in leaving) for one in domains]])
    predicted = predict(cpus, own, demands, present)
    return float(predicted.ratio[0]), float(predicted.spread[0])


# (domains with their cores and delay before, load before, who leaves, load measured after)
ON_OFF = [domain("a", 0.409, 0.440), domain("b", 0.326, 0.397), domain("c", 0.281, 0.368)]
ON_OFF_TWO = [domain("b", 0.474, 0.226), domain("c", 0.400, 0.225)]
CATCHING_UP = [domain("a", 0.363, 0.485), domain("b", 0.339, 0.472), domain("c", 0.244, 0.410)]
CATCHING_UP_TWO = [domain("b", 0.475, 0.299), domain("c", 0.296, 0.296)]


@pytest.mark.parametrize(
    ("domains", "load", "leaving", "measured"),
    [
        (ON_OFF, 0.981, {"a"}, 0.889),
        (ON_OFF_TWO, 0.889, {"b"}, 0.604),
        (CATCHING_UP, 0.945, {"a"}, 0.772),
        (CATCHING_UP_TWO, 0.772, {"b"}, 0.265),
    ],
)
def test_measured_migrations_without_any_history(
    domains: list[Domain], load: float, leaving: set[str], measured: float
) -> None:
    predicted, spread = after(domains, load, leaving)
    assert abs(predicted - measured) <= 0.05
    assert abs(predicted - measured) <= NOISE_RATIO + spread + 0.01


def test_where_nobody_waits_loads_add_up() -> None:
    predicted, spread = after([domain("a", 1.0), domain("b", 2.0), domain("c", 0.5)], 0.5, {"b"}, cpus=8)
    assert predicted == pytest.approx(0.25)
    assert spread == 0


def test_the_hosts_own_use_stays() -> None:
    predicted, _ = after([domain("a", 1.0), domain("b", 2.0)], 0.5, {"a", "b"}, cpus=8)
    assert predicted == pytest.approx((0.5 * 8 - 3) / 8)


@st.composite
def hosts(draw: st.DrawFn) -> tuple[int, list[Domain], float]:
    cpus = draw(st.integers(1, 8))
    domains = [
        domain(
            f"vm{i}",
            draw(st.floats(0, 1)),
            draw(st.floats(0, 1)),
            vcpus=draw(st.integers(1, 3)),
            past=draw(st.none() | st.floats(0, 1)),
        )
        for i in range(draw(st.integers(1, 6)))
    ]
    return cpus, domains, draw(st.floats(0, 1))


@given(hosts(), st.data())
def test_a_host_with_fewer_domains_is_never_predicted_busier(
    host: tuple[int, list[Domain], float], data: st.DataObject
) -> None:
    cpus, domains, load = host
    names = [one.name for one in domains]
    some = set(data.draw(st.lists(st.sampled_from(names), unique=True)))
    more = some | set(data.draw(st.lists(st.sampled_from(names), unique=True)))
    fewer_left, _ = after(domains, load, more, cpus=cpus)
    more_left, _ = after(domains, load, some, cpus=cpus)
    assert fewer_left <= more_left + 1e-9


@given(hosts())
def test_a_load_and_its_spread_are_shares(host: tuple[int, list[Domain], float]) -> None:
    cpus, domains, load = host
    predicted, spread = after(domains, load, set(), cpus=cpus)
    assert 0 <= predicted <= 1
    assert 0 <= spread <= 1.1


@given(hosts(), st.floats(0.25, 4))
def test_the_unit_of_speed_does_not_matter(host: tuple[int, list[Domain], float], factor: float) -> None:
    cpus, domains, load = host
    demands = estimated(domains, cpus, load)
    there = demands.at_speed(factor).at_speed(1 / factor)
    assert np.all(there.cores <= demands.cores + 1e-9)  # a vCPU that would need more than all its time gets cut
    assert np.array_equal(there.runnable, demands.runnable)


@given(st.lists(hosts(), min_size=1, max_size=4), st.integers(1, 5))
def test_hosts_of_any_size_are_predicted_together_as_each_alone(
    found: list[tuple[int, list[Domain], float]], cases: int
) -> None:
    cpus = found[0][0]
    demands = [estimated(domains, cpus, load) for _, domains, load in found]
    present = [
        np.array([[(case + n) % 3 > 0 for n in range(len(one))] for case in range(cases)], float) for one in demands
    ]
    there = np.zeros((len(demands), cases, max(map(len, demands))))
    for host, rows in enumerate(present):
        there[host, :, : rows.shape[1]] = rows
    own = np.linspace(0, 0.5, len(demands))[:, np.newaxis]
    together = predict(cpus, own, Demands.stacked(demands), there)
    for host, rows in enumerate(present):
        alone = predict(cpus, own[host], demands[host], rows)
        for part in ("ratio", "spread", "wanted"):
            assert getattr(together, part)[host] == pytest.approx(getattr(alone, part), abs=1e-7)
