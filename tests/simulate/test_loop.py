"""The loop: the same scenario comes to the same, and cycles that are left out would have changed nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from virtpoise_balancer.analyse.habits import HabitBook, Readings
from virtpoise_balancer.model import Reason, Snapshot
from virtpoise_balancer.simulate.figures import RunFigures
from virtpoise_balancer.simulate.loop import Course, StepOutcome, play
from virtpoise_balancer.simulate.observer import SimulatedObserver
from virtpoise_balancer.simulate.outcome import play_scenario
from virtpoise_balancer.simulate.scenario import Scenario
from virtpoise_balancer.simulate.staged import StagedScenario


@dataclass
class Remembering:
    """A simulated observer that has a past, read as the balancer's own is: a reading every N steps."""

    there: SimulatedObserver
    seen: list[tuple[float, Readings]]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.there, name)

    def past(self, _seen: Snapshot, since: float) -> Iterator[tuple[float, Readings]]:
        return iter(
            [
                one
                for one in self.seen[:-1][::-1][self.there.consecutive - 1 :: self.there.consecutive][::-1]
                if one[0] > since
            ]
        )


HERE = Path(__file__).parent
NOISY = {"shape": "wandering", "mean_cores": 1.2, "deviation_ratio": 0.35, "memory_minutes": 4}

RISE = {"shape": "step", "cores": 0.2, "to_cores": 1.8, "at_minutes": 25}


def scenario(**changes: Any) -> Scenario:
    values: dict[str, Any] = {
        "name": "test",
        "duration_minutes": 60,
        "hosts": [{"name": "h", "count": 3, "cpus": 4, "memory_gib": 32}],
        "domains": [{"name": "vm", "count": 9, "memory_gib": 2, "load": {"shape": "constant", "cores": 0.5}}],
    }
    return Scenario.model_validate(values | changes)


def balanced(of: Scenario, seed: int = 1, *, skips: bool = True) -> tuple[RunFigures, list[StepOutcome]]:
    script = StagedScenario(of, seed, HERE)
    course = Course(fleet=script.fleet, start=script.start, config=of.config.config, skips=skips)
    looks = [look for (look,) in play([course], ([demand] for demand in script))]
    figures = course.figures()
    course.close()
    return figures, looks


def moves(looks: list[StepOutcome]) -> list[tuple[float, str, str]]:
    """When each move was planned, which domain, and where to."""
    return [
        (look.time, move.domain, move.destination)
        for look in looks
        if look.report and look.report.plan and look.report.result == "moved"
        for move in look.report.plan.moves
    ]


def noisy(**changes: Any) -> Scenario:
    return scenario(
        duration_minutes=90,
        domains=[
            {"name": "vm", "count": 6, "memory_gib": 2, "vcpus": 2, "load": NOISY},
            {"name": "riser", "hosts": ["h2"], "memory_gib": 2, "vcpus": 4, "spread_ratio": 0.2, "load": RISE},
        ],
        **({"config": {"interval_seconds": 20}} | changes),
    )


def test_the_same_seed_comes_to_the_same_and_another_to_something_else() -> None:
    first, second, other = (balanced(noisy(), seed) for seed in (1, 1, 2))
    assert (first[0], moves(first[1])) == (second[0], moves(second[1]))
    assert moves(first[1]) != moves(other[1])


EVENTS = [
    {"event": "drain", "host": "h2", "at_minutes": 20, "for_minutes": 15},
    {"event": "no_figures", "host": "h3", "at_minutes": 50, "for_minutes": 3},
    {"event": "host_down", "host": "h1", "at_minutes": 60, "for_minutes": 4},
    {"event": "migrated", "domain": "vm2", "to": "h3", "at_minutes": 70},
    {"event": "stopped", "domain": "vm3", "at_minutes": 75, "for_minutes": 5},
]


@pytest.mark.parametrize("events", [[], EVENTS, [{"event": "migrations_fail", "to": "h1"}]])
@pytest.mark.parametrize("strategy", ["default", "thesis"])
@pytest.mark.parametrize("seed", [3, 4])
def test_cycles_that_are_left_out_would_have_changed_nothing(
    events: list[dict[str, Any]], strategy: str, seed: int
) -> None:
    of = noisy(events=events, config={"interval_seconds": 20, "policy": {"strategy": strategy}})
    quick, every = balanced(of, seed), balanced(of, seed, skips=False)
    assert moves(quick[1]) == moves(every[1])
    assert quick[0] == every[0]
    assert sum(look.report is not None for look in quick[1]) < len(every[1])


def test_a_migration_takes_time_and_costs_both_hosts() -> None:
    of = scenario(
        duration_minutes=20,
        hosts=[{"name": "h", "count": 2, "cpus": 4, "memory_gib": 64, "link_mib_per_second": 100}],
        domains=[
            {"name": "big", "hosts": ["h1"], "memory_gib": 16, "load": {"shape": "constant", "cores": 1.0}},
        ],
        events=[{"event": "drain", "host": "h1", "at_minutes": 5}],
    )
    figures, looks = balanced(of)
    tx, rx = (np.array([look.ratio[row, host] for look in looks]) for row, host in ((3, 0), (2, 1)))
    copying = int((tx > 0.1).sum())
    assert copying * 10 == pytest.approx(16 * 1024 / 90, abs=20)  # 90 of 100 MiB/s
    assert tx[tx > 0.1][1:-1] == pytest.approx(0.9, abs=0.01)
    assert (rx > 0.1).sum() == copying
    both = [look.ratio[0] for look in looks if look.ratio[3, 0] > 0.5]
    assert min(ratio[0] for ratio in both) > 0.25  # it runs on its source until the end
    assert max(ratio[1] for ratio in both[:-1]) > 0
    assert (figures.moves, figures.left_on_drained_hosts) == (1, 0)
    assert figures.gib == pytest.approx(16, abs=0.1)


def relieved_at(events: list[dict[str, Any]]) -> float:
    """When h4 is relieved by a move to h2, in minutes. Its overload begins after 8, and h2 is full until 11."""
    of = scenario(
        duration_minutes=16,
        hosts=[{"name": "h", "count": 4, "cpus": 8, "memory_gib": 64}],
        domains=[
            {"name": "big", "hosts": ["h1"], "memory_gib": 16, "load": {"shape": "constant", "cores": 0.2}},
            {
                "name": "small",
                "count": 4,
                "hosts": ["h4"],
                "memory_gib": 1,
                "load": {"shape": "step", "cores": 0.5, "to_cores": 1.65, "at_minutes": 8},
            },
        ],
        events=[{"event": "overload", "host": "h2", "cores": 5.4, "at_minutes": 2, "for_minutes": 9}, *events],
        config={"migration": {"bandwidth_mib_per_second": 20}},
    )
    _, looks = balanced(of)
    (at,) = (at for at, domain, to in moves(looks) if domain != "big" and to == "h2")
    return (at - looks[0].time) / 60


def test_an_overload_beside_a_slow_migration_is_relieved_as_fast_as_without_it() -> None:
    """While h2 is full, only the destination of the slow migration could take a domain, and the move waits for it."""
    full = [{"event": "overload", "host": host, "cores": 5.4, "at_minutes": 2} for host in ("h1", "h3")]
    beside = relieved_at([{"event": "drain", "host": "h1", "at_minutes": 6}])  # big takes 14 minutes to h3
    assert beside <= relieved_at(full)


def test_a_domain_that_writes_faster_than_is_copied_does_not_arrive() -> None:
    of = scenario(
        duration_minutes=30,
        hosts=[{"name": "h", "count": 2, "cpus": 4, "memory_gib": 64, "link_mib_per_second": 100}],
        domains=[
            {"name": "db", "hosts": ["h1"], "dirty_mib_per_second": 95, "load": {"shape": "constant", "cores": 1}}
        ],
        config={"migration": {"timeout_seconds": 60}},
        events=[{"event": "drain", "host": "h1", "at_minutes": 5}],
    )
    figures, _ = balanced(of)
    assert (figures.moves, figures.failed_moves, figures.left_on_drained_hosts) == (0, 2, 1)


def test_a_host_that_fails_takes_its_domains_with_it_and_nothing_is_moved_to_it() -> None:
    of = scenario(events=[{"event": "host_down", "host": "h1", "at_minutes": 10, "for_minutes": 20}])
    _, looks = balanced(of, skips=False)
    down = [look for look in looks if 10 * 60 < look.time - looks[0].time <= 29 * 60]
    assert all(np.isnan(look.ratio[0, 0]) for look in down)
    assert all(look.report and "unknown: h1" in look.report.sentence for look in down)
    assert looks[-1].ratio[0, 0] == pytest.approx(0.375)


def test_a_balancer_that_is_started_again_decides_as_the_one_before() -> None:
    """After hours of noise and a step, a new balancer has the habits of the past: it plans the same, step by step.

    They are not exact (decision 57), so the scene is one in which no move is worth just what it costs.
    """
    wanders = {"shape": "wandering", "mean_cores": 0.7, "deviation_ratio": 0.5, "memory_minutes": 4}
    rise = {"shape": "step", "cores": 0.1, "to_cores": 1.4, "at_minutes": 150}
    of = scenario(
        duration_minutes=180,
        config={"interval_seconds": 20},
        domains=[
            {"name": "vm", "count": 9, "memory_gib": 2, "vcpus": 2, "load": wanders},
            {"name": "riser", "hosts": ["h2"], "memory_gib": 2, "vcpus": 4, "load": rise},
        ],
    )

    def planned(again: bool, past: bool) -> list[tuple[float, str, tuple[str, ...]]]:
        script = StagedScenario(of, 5, HERE)
        course = Course(fleet=script.fleet, start=script.start, config=of.config.config, skips=False)
        balancer, seen, found = course._balancer, [], []
        assert balancer is not None
        for number, (look,) in enumerate(play([course], ([demand] for demand in script))):
            seen.append((look.time, balancer._observer.readings()))
            if again and number == 420:
                observer = Remembering(balancer._observer, seen if past else [])
                balancer._cycle = replace(balancer._cycle, observer=observer, habits=HabitBook())
            if look.report and look.report.plan and number > 420:
                plan = look.report.plan
                waits = tuple(str(one.host) for one in plan.refusals if one.reason is Reason.NOT_WORTH)
                found.append((look.time, ",".join(f"{m.domain}>{m.destination}" for m in plan.moves), waits))
        course.close()
        return found

    kept = planned(False, False)
    assert any(moved for _, moved, _ in kept)
    assert any(waits for _, _, waits in kept)
    assert planned(True, True) == kept
    assert planned(True, False) != kept


def test_others_move_what_the_balancer_has_not_moved() -> None:
    busy = {
        "name": "busy",
        "hosts": ["h1"],
        "vcpus": 4,
        "load": {"shape": "step", "cores": 0.2, "to_cores": 2.5, "at_minutes": 5},
    }
    rest = {"name": "vm", "count": 9, "memory_gib": 4, "load": {"shape": "constant", "cores": 0.5}}
    by_hand = [{"event": "migrated", "domain": name, "to": "h2", "at_minutes": 40} for name in ("busy", "vm3")]
    figures, looks = balanced(scenario(domains=[busy, rest], events=by_hand))
    moved = {domain for _, domain, _ in moves(looks)}
    assert figures.moves
    assert figures.not_followed == len(moved & {"busy", "vm3"})


def test_figures_of_seeds_add_up() -> None:
    outcome = play_scenario(noisy(seeds=2), HERE)
    assert outcome.balanced.moves == sum(found.moves for _, _, found in outcome.each)
    assert outcome.without.overload_host_minutes == pytest.approx(
        sum(found.overload_host_minutes for _, found, _ in outcome.each)
    )
    assert outcome.without.moves == 0


def test_a_move_back_and_a_domain_moved_twice_are_counted() -> None:
    of = scenario(
        duration_minutes=60,
        hosts=[{"name": "h", "count": 2, "cpus": 4, "memory_gib": 64}],
        domains=[
            {"name": "a", "count": 3, "hosts": ["h1"], "load": {"shape": "constant", "cores": 0.3}},
            {"name": "b", "count": 2, "hosts": ["h2"], "load": {"shape": "constant", "cores": 0.3}},
        ],
        events=[
            {"event": "drain", "host": "h1", "at_minutes": 5, "for_minutes": 20},
            {"event": "drain", "host": "h2", "at_minutes": 30},
        ],
    )
    figures, _ = balanced(of)
    assert (figures.moves, figures.moved_more_than_once, figures.back_and_forths) == (8, 3, 3)


def test_thresholds_of_the_configuration_are_those_of_the_figures() -> None:
    of = scenario()
    lower = replace(of.config.policy, cpu=replace(of.config.policy.cpu, threshold=0.3, recovery=0.2))
    script, config = StagedScenario(of, 1, HERE), of.config.config.model_copy(update={"policy": lower})
    alone = Course(fleet=script.fleet, start=script.start, config=config, balances=False)
    assert len([*play([alone], ([demand] for demand in script))]) == 360
    assert alone.figures().overload_by_resource == {"cpu": pytest.approx(180)}


def test_a_host_with_a_threshold_of_its_own_is_counted_by_that() -> None:
    """Three domains of 0.5 cores make 0.375 of each of three hosts of four CPUs."""
    own = {"policy": {"hosts": [{"hosts": ["h1"], "cpu": 0.3}]}}
    without = scenario(config=own, duration_minutes=5)
    script = StagedScenario(without, 1, HERE)
    alone = Course(fleet=script.fleet, start=script.start, config=without.config.config, balances=False)
    overs = [look.over.tolist() for (look,) in play([alone], ([demand] for demand in script))]
    assert overs[-1] == [True, False, False]
    assert alone.figures().overload_host_minutes == pytest.approx(5, abs=0.5)
    alone.close()
