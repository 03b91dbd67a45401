"""The planner's state holds what its comments say, after every step; and the two ways to hold it agree."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from invariants import check_group, check_search_state, check_source, check_trial
from random_groups import partly_unknown, random_group, varied_group
from virtpoise_balancer.model import Domain, Policy, Snapshot
from virtpoise_balancer.plan.default.assign import relieve, relieve_partly
from virtpoise_balancer.plan.default.group import Group
from virtpoise_balancer.plan.default.search_state import SearchState
from virtpoise_balancer.plan.default.source import Source
from virtpoise_balancer.plan.default.strategy import closed_hosts, sources_of
from virtpoise_balancer.plan.default.trial import Trial
from virtpoise_balancer.plan.problems import find

SEEDS = range(24)


def with_one_under_way(seed: int) -> tuple[Snapshot, Policy]:
    """A random group, every second with unequal hosts, every third with a migration under way."""
    snapshot, policy = (random_group, varied_group, random_group, partly_unknown)[seed % 4](seed)
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
    return Trial(group, sources, closed_hosts(group, group.overloads)), sources


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


def trial_after(state: SearchState) -> Trial:
    trial = state.trial.copy()
    for step in state.steps:
        trial.apply(step)
    return trial
