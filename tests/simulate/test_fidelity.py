"""The simulated observer sees what the real one sees of the same hosts, and both come to the same plans.

A scene is played, and its counters are given to a real Prometheus as exporters would have shown them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from filled_prometheus import BIN, filled_prometheus
from virtpoise_balancer.config import Config, parse_config
from virtpoise_balancer.model import Snapshot
from virtpoise_balancer.monitor.client import PrometheusClient
from virtpoise_balancer.plan import plan
from virtpoise_balancer.service import wiring
from virtpoise_balancer.simulate.observer import SimulatedObserver
from virtpoise_balancer.simulate.scenario import Scenario
from virtpoise_balancer.simulate.staged import StagedScenario
from virtpoise_balancer.simulate.world import World

pytestmark = pytest.mark.skipif(not (BIN / "promtool").exists(), reason="scripts/setup has not fetched Prometheus")

STEP = 10.0
SCENE = {
    "name": "noisy, and then overloaded",
    "duration_minutes": 40,
    "hosts": [{"name": "h", "count": 3, "cpus": 4, "memory_gib": 32, "own_cores": 0.1, "own_memory_gib": 1}],
    "domains": [
        {
            "name": "vm",
            "count": 9,
            "memory_gib": 2,
            "load": {"shape": "wandering", "mean_cores": 0.8, "deviation_ratio": 0.3, "memory_minutes": 2},
        },
        {"name": "busy", "hosts": ["h2"], "load": {"shape": "step", "to_cores": 1.6, "at_minutes": 25}},
    ],
    "events": [{"event": "migrated", "domain": "vm3", "to": "h1", "at_minutes": 15}],
}


class PastClient(PrometheusClient):
    """A client whose server's clock shows the time of the query."""

    at = 0.0

    def time(self) -> float:
        return PastClient.at


@dataclass
class Played:
    """``snapshots``: the simulated observer's, by time."""

    config: Config
    snapshots: dict[float, Snapshot]


def play(start: float) -> tuple[str, dict[float, Snapshot]]:
    """The scene's counters as OpenMetrics, shifted to ``start``, and what the simulated observer saw at each step."""
    scenario = Scenario.model_validate(SCENE)
    script = StagedScenario(scenario, 5, Path())
    fleet = script.fleet
    world, policy = World(fleet, STEP), scenario.config.policy
    observer = SimulatedObserver(
        fleet=fleet,
        step_seconds=STEP,
        consecutive=policy.cpu.consecutive,
        saturation_ratio=policy.saturation_ratio,
        settle_seconds=20,
        window_seconds=60,
        blur_ratio=0.0,  # all hosts are scraped at the end of a step
        reach_back_seconds=15.0,
    )
    families: dict[str, dict[str, list[str]]] = {}

    def put(name: str, labels: str, value: float, at: float) -> None:
        families.setdefault(name, {}).setdefault(labels, []).append(f"{name}{{{labels}}} {value:.5f} {at:.1f}")

    snapshots = {}
    busy = np.zeros(fleet.hosts)
    ran, waited = np.zeros((2, fleet.domains))
    for number, demand in enumerate(script):
        world.begin(demand)
        world.advance(STEP)
        measured = world.measure()
        at = start + (number + 1) * STEP
        observer.take(measured, at)
        snapshots[at] = observer.observe(at).snapshot
        busy += measured.ratio[0] * fleet.cpus * STEP
        ran += measured.run * STEP
        waited += measured.delay * STEP
        for host, name in enumerate(fleet.host_names):
            labels = f'instance="{name}:9807",job="virtpoise-exporter"'
            idle = fleet.cpus[host] * (number + 1) * STEP - busy[host]
            memory = fleet.host_memory_bytes[host]
            put("virtpoise_host_cpu_seconds_total", f'{labels},mode="idle"', idle, at)
            put("virtpoise_host_cpu_seconds_total", f'{labels},mode="user"', busy[host], at)
            put("virtpoise_host_cpus", labels, fleet.cpus[host], at)
            put("virtpoise_host_memory_total_bytes", labels, memory, at)
            put("virtpoise_host_memory_available_bytes", labels, memory * (1 - measured.ratio[1, host]), at)
            put("virtpoise_libvirt_up", labels, 1, at)
            there = np.flatnonzero(measured.at == host)
            put("virtpoise_domains", f'{labels},state="active"', len(there), at)
            put("virtpoise_domains", f'{labels},state="inactive"', 0, at)
            for domain in there:
                of = f'{labels},domain="{fleet.domain_names[domain]}",uuid="{fleet.uuids[domain]}"'
                put("virtpoise_domain_running", of, 1, at)
                put("virtpoise_domain_vcpus", of, fleet.vcpus[domain], at)
                put("virtpoise_domain_memory_bytes", of, fleet.memory_bytes[domain], at)
                put("virtpoise_domain_cpu_seconds_total", of, ran[domain], at)
                put("virtpoise_domain_cpu_delay_seconds_total", of, waited[domain], at)
    lines = []
    for name, series in families.items():
        kind = "counter" if name.endswith("_total") else "gauge"
        lines.append(f"# TYPE {name.removesuffix('_total')} {kind}")
        lines += [line for samples in series.values() for line in samples]
    return "\n".join([*lines, "# EOF", ""]), snapshots


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    folder = tmp_path_factory.mktemp("fidelity")
    exposition, snapshots = play((time.time() - 4 * 3600) // 60 * 60)
    with filled_prometheus(exposition, folder) as url:
        yield Played(parse_config(f"prometheus: {{url: '{url}'}}\n", "test"), snapshots)


def test_both_observers_see_the_same_and_plan_the_same(played: Played) -> None:
    observer = wiring.make_observer(played.config)
    client = PastClient(url=played.config.prometheus.url, timeout_seconds=10)
    observer = replace(observer, client=client)
    looks, same = 0, 0
    for at, simulated in [*played.snapshots.items()][39::6]:
        PastClient.at = at
        real = observer.observe(at).snapshot
        assert [host.name for host in real.hosts] == [host.name for host in simulated.hosts]
        for ours, theirs in zip(simulated.hosts, real.hosts, strict=True):
            assert theirs.known
            assert ours.cpu_ratio == pytest.approx(theirs.cpu_ratio, abs=0.01)
            assert ours.memory_ratio == pytest.approx(theirs.memory_ratio, abs=0.01)
        pairs = zip(simulated.domains, real.domains, strict=True)
        for here, there in pairs:
            assert (here.uuid, here.host, here.vcpus, here.memory_bytes) == (
                there.uuid,
                there.host,
                there.vcpus,
                there.memory_bytes,
            )
            if there.state == here.state == "running":
                assert here.cpu_cores == pytest.approx(there.cpu_cores, abs=0.05)
                assert here.cpu_delay_cores == pytest.approx(there.cpu_delay_cores, abs=0.05)
        looks += 1
        ours_moves, real_moves = (
            [(move.uuid, move.destination) for move in plan(seen, played.config.policy).moves]
            for seen in (simulated, real)
        )
        same += ours_moves == real_moves
    client.close()
    assert looks > 30
    assert same / looks >= 0.95
    assert any(plan(seen, played.config.policy).moves for seen in played.snapshots.values())
