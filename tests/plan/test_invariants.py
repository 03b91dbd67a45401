"""The planner's state holds what its comments say, after every step; and the two ways to hold it agree."""

from __future__ import annotations

import gc
import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

import builders
from invariants import check_group, check_search_state, check_source, check_trial
from random_groups import partly_unknown, random_group, varied_group, zoned_group
from virtpoise_balancer.model import Domain, Host, Policy, Snapshot
from virtpoise_balancer.plan import plan
from virtpoise_balancer.plan.default.assign import relieve, relieve_partly
from virtpoise_balancer.plan.default.candidates import Candidate
from virtpoise_balancer.plan.default.group import Group
from virtpoise_balancer.plan.default.residents import predict_together
from virtpoise_balancer.plan.default.search import Budget, Pending, Search
from virtpoise_balancer.plan.default.search import _Best as Best
from virtpoise_balancer.plan.default.search_state import SearchState
from virtpoise_balancer.plan.default.source import Option, Source
from virtpoise_balancer.plan.default.strategy import sources_of
from virtpoise_balancer.plan.default.trial import Trial
from virtpoise_balancer.plan.problems import find

SEEDS = range(30)


def with_one_under_way(seed: int) -> tuple[Snapshot, Policy]:
    """A random group, most with unequal hosts, some in racks and with huge pages, every third with a migration under
    way.
    """
    snapshot, policy = (random_group, varied_group, zoned_group, partly_unknown, zoned_group)[seed % 5](seed)
    if seed % 3:
        return snapshot, policy
    rng = random.Random(seed)
    ruled = {name for one in policy.rules for name in one.domains}
    numbers = [i for i, domain in enumerate(snapshot.domains) if domain.name in ruled or not ruled]
    number = rng.choice(numbers)
    moving: Domain = snapshot.domains[number]
    to = rng.choice([host.name for host in snapshot.hosts if host.name != moving.host])
    domains = (*snapshot.domains[:number], replace(moving, migrating_to=to), *snapshot.domains[number + 1 :])
    return replace(snapshot, domains=domains), policy


def begun(seed: int) -> tuple[Trial, list[Source]]:
    group = Group(*with_one_under_way(seed))
    sources = sources_of(group, find(group.snapshot, group.policy, group.overloads).attempt, group.overloads)
    return Trial(group, sources, ~group.takers), sources


@pytest.mark.parametrize("seed", SEEDS)
def test_it_holds_after_every_step(seed: int) -> None:
    trial, sources = begun(seed)
    check_group(trial.group)
    check_trial(trial)
    for source in sources:
        check_source(source)
        for wider in (source.with_small(), source.unrested()):
            if wider is not None:
                check_source(wider)
    relieved, unsolved = relieve(trial, sources)
    for source in sources:
        if source.number in unsolved:
            relieve_partly(relieved, source)
    again = trial.copy()
    for step in relieved.steps:
        assert again.takes(step.candidate, step.destination), "each step is legal when it is made"
        again.apply(step)
        check_trial(again)
    check_group(trial.group)
    check_trial(trial)
    assert trial.steps == []


@pytest.mark.parametrize("seed", SEEDS)
def test_the_search_and_the_trial_agree_on_what_adds_up(seed: int) -> None:
    trial, sources = begun(seed)
    state = SearchState(trial, sources)
    check_search_state(state)
    before = {host: list(use) for host, use in state.use.items()}
    rng = random.Random(seed)
    wanted = [candidate for source in sources for candidate in source.candidates]
    for candidate in rng.sample(wanted, min(len(wanted), 8)):
        bonds = state.hard_bonds(candidate)
        for host in state.best_first(candidate):
            fits = trial_after(state).takes(candidate, host)
            allowed = state.allowed(candidate, host, bonds)
            assert fits is False or (allowed and state.fits(candidate, host)), "the trial is the stricter one"
            if allowed and state.fits(candidate, host):
                state.put(candidate, host)
                check_search_state(state)
                break
    while state.steps:
        state.take_back()
        check_search_state(state)
    for host, use in before.items():
        assert state.use[host] == pytest.approx(use, abs=1e-12)


class CheckedState(SearchState):
    """Checks itself after every step that is made or taken back."""

    def put(self, candidate: Candidate, host: int) -> None:
        super().put(candidate, host)
        check_search_state(self)

    def take_back(self) -> None:
        super().take_back()
        check_search_state(self)


class CheckedSearch(Search):
    """Checks the invariants that the search's docstring names."""

    def __init__(self, trial: Trial, sources: list[Source], budget: Budget) -> None:
        super().__init__(trial, sources, budget)
        self.state = CheckedState(trial, sources)

    def _place(self, pending: Pending, ejections: int, weight: float, best: Best) -> None:
        steps, use, bound = list(self.state.steps), {h: list(u) for h, u in self.state.use.items()}, best.bound
        super()._place(pending, ejections, weight, best)
        assert self.state.steps == steps, "what was tried is taken back"
        assert all(self.state.use[host] == pytest.approx(before, abs=1e-9) for host, before in use.items())
        assert best.bound <= bound, "the best so far only gets lighter"
        assert (best.weight is None) or best.weight == best.bound


@pytest.mark.parametrize("seed", SEEDS)
def test_the_search_leaves_its_state_as_it_was_and_its_best_only_gets_lighter(seed: int) -> None:
    trial, sources = begun(seed)
    found = CheckedSearch(trial, sources, Budget(60)).run(None, 0.0)
    if found is not None:
        end = trial.replayed(found.steps)
        assert end is not None, "each step of the result is legal when it is made"
        check_trial(end)


def trial_after(state: SearchState) -> Trial:
    trial = state.trial.copy()
    for step in state.steps:
        trial.apply(step)
    return trial


def test_predictions_of_a_large_host_do_not_depend_on_being_made_together() -> None:
    snapshot = large_host(200)
    one, other = (Group(snapshot, Policy()).residents(0) for _ in range(2))
    cases = np.tril(np.ones((40, 200), dtype=np.bool_))
    predict_together((one, present[np.newaxis]) for present in cases)
    for present in cases:
        alone, together = (residents.load(present[np.newaxis]) for residents in (other, one))
        assert together.ratio == pytest.approx(alone.ratio, abs=1e-12)
        assert together.spread == pytest.approx(alone.spread, abs=1e-12)
        assert together.wanted == pytest.approx(alone.wanted, abs=1e-12)


def large_host(count: int) -> Snapshot:
    domains = tuple(
        Domain(name=f"vm{n:03d}", uuid=f"u{n:03d}", host="h", vcpus=1, cpu_cores=0.1, cpu_delay_cores=0.01)
        for n in range(count)
    )
    return Snapshot(time=1e9, hosts=(Host(name="h", cpus=24, cpu_ratio=(0.85,) * 3, memory_bytes=1),), domains=domains)


def test_garbage_is_collected_again_after_a_plan() -> None:
    gc.enable()
    plan(*random_group(1))
    assert gc.isenabled()


def full_group() -> Snapshot:
    """Two hosts at 95 % and two at 73 %, which have room for a third of what would have to leave."""
    hosts, domains = [], []
    for name, load in (("h1", 0.95), ("h2", 0.95), ("h3", 0.73), ("h4", 0.73)):
        hosts.append(builders.host(name, load, load, load, cpus=16))
        domains += [builders.domain(f"{name}-{n}", name, load * 16 * (10 + n) / 145, vcpus=2) for n in range(10)]
    return builders.group(*hosts, *domains)


def test_what_none_has_room_for_is_counted_as_if_each_had_been_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at: list[bool] = []
    room_for = SearchState.room_for

    def counted(state: SearchState, chosen: Sequence[Option]) -> bool:
        looked_at.append(room_for(state, chosen))
        return looked_at[-1]

    monkeypatch.setattr(SearchState, "room_for", counted)
    at_once = plan(full_group(), Policy())
    assert looked_at == []
    monkeypatch.setattr(SearchState, "may_have_room", lambda _state, _lists: True)
    assert plan(full_group(), Policy()) == at_once
    assert len(looked_at) > 10_000
    assert not any(looked_at)


@pytest.mark.parametrize(("checks", "spent"), [(5, 0), (5, 5), (5, 6), (5, 99), (0, 1), (-1, 3)])
def test_checks_that_are_spent_at_once_are_spent_as_one_by_one(checks: int, spent: int) -> None:
    at_once, each = Budget(checks), Budget(checks)
    at_once.spend(spent)
    for _ in range(spent):
        if each.checks < 0:
            break
        each.spent()
    assert at_once == each
