"""What must hold of the planner's state at every moment, as the comments at its attributes say."""

from __future__ import annotations

import numpy as np
import pytest

from virtpoise_balancer.model import Resource
from virtpoise_balancer.plan.default.group import Group
from virtpoise_balancer.plan.default.search_state import SearchState
from virtpoise_balancer.plan.default.source import Source
from virtpoise_balancer.plan.default.trial import Trial


def check_group(group: Group) -> None:
    hosts, resources = len(group.hosts), len(Resource)
    assert [host.name for host in group.hosts] == sorted(group.index), "hosts are sorted by name"
    assert all(group.hosts[number].name == name for name, number in group.index.items())
    assert group.per_unit.shape == group.use.shape == (resources, hosts)
    assert group.limit.shape == (resources, hosts)
    assert (group.limit > 0).all()
    assert group.level.shape == (hosts,)
    assert np.isfinite(group.per_unit).all()
    assert (group.per_unit >= 0).all()
    for number, host in enumerate(group.hosts):
        assert bool(np.isfinite(group.use[:, number]).all()) is host.known, "the use of unknown hosts is infinite"
        for resource in Resource:
            unknown = host.known and host.ratio(resource) is None
            assert bool(group.per_unit[resource.row, number]) is not unknown, "traffic adds nothing to what is unknown"
            assert not unknown or group.use[resource.row, number] == 0
        assert all(domain.host == host.name for domain in group.domains_on(number))
    assert sum(len(group.domains_on(number)) for number in range(hosts)) == len(group.snapshot.domains)


def check_source(source: Source) -> None:
    running = source.residents.running
    assert running == sorted(running, key=lambda domain: (domain.name, domain.uuid)), "domains are sorted by name"
    seen = [domain.uuid for candidate in source.candidates for domain in candidate.domains]
    refused = {refusal.uuid for refusal in source.refusals}
    assert len(seen) == len(set(seen)), "no domain is in two candidates"
    assert not refused & set(seen), "no candidate was refused"
    assert {domain.uuid for domain in running} <= refused | set(seen), "each domain is a candidate or has a refusal"
    for candidate in source.candidates:
        assert [running[row] for row in candidate.rows] == list(candidate.domains)
        assert (candidate.arrival >= 0).all()
        assert candidate.weight >= candidate.cost
    if source.fewest is not None:
        before = (0, 0.0)
        for option in source.options(source.fewest):
            uuids = {domain.uuid for candidate in option.candidates for domain in candidate.domains}
            assert source.residue(uuids).solved, "an option solves the problem"
            assert option.moves == len(uuids)
            assert option.moves >= before[0], "the fewest moves come first"
            before = (option.moves, option.weight)


def check_trial(trial: Trial) -> None:
    group = trial.group
    assert not (trial.open & trial.relievable).any(), "a host with a problem is not open"
    assert (trial.use >= 0).all(), "no use is negative"
    assert np.isfinite(trial.use[:, trial.open]).all(), "the use of open hosts is known"
    moved = [domain.uuid for step in trial.steps for domain in step.candidate.domains]
    assert sorted(moved) == sorted(trial.moved), "each domain has at most one step"
    for step in trial.steps:
        assert step.destination != step.candidate.source, "a step leads elsewhere"
        assert all(trial.host_of(domain) == step.destination for domain in step.candidate.domains)
    arrived = sum(sum(map(len, arrivals)) for arrivals in trial._arrivals.values())
    assert len(moved) <= arrived <= len(moved) + len(group.under_way), "what has a step arrives, and what is under way"
    at = {domain.uuid: trial.host_of(domain) for domain in group.snapshot.domains}
    for number, bond in enumerate(group.rules.bonds):
        expected = [bond.zones[at[uuid]] for uuid in bond.members]
        expected += [bond.zones[group.index[str(d.migrating_to)]] for d in group.under_way if d.uuid in bond.members]
        for zone in range(len(group.hosts)):
            assert trial.members(number).get(zone, 0) == expected.count(zone), f"members of {bond.name}"
    for (number, arriving, source), (full, likings) in trial._bonds_kept.items():
        bond, members = group.rules.bonds[number], trial.members(number)
        for host in (host for zone in members for host in bond.hosts_in(zone) if host != source):
            there = members.get(host, 0) if source is None else bond.there(members, host, source, arriving)
            here = 0 if source is None else members.get(bond.zones[source], 0)
            assert (host in full) is not bond.takes(there, arriving, here), f"what {bond.name} allows is up to date"
            hard = bond.hard and not bond.crowded
            assert likings[host] == bond.kind.liking(there, arriving, hard=hard), f"{bond.name} is up to date"
    for stock, before in group.stocks.free.items():
        left = before.copy()
        arrivals = [(domain, step.destination) for step in trial.steps for domain in step.candidate.domains]
        arrivals += [(domain, group.index[str(domain.migrating_to)]) for domain in group.under_way]
        for domain, host in arrivals:
            left[host] -= group.stocks.taken_by([domain]).get(stock, 0)
        assert np.array_equal(trial.free(stock), left), (
            "what arrives takes of the stocks, and what leaves frees nothing"
        )
    repeated = {
        (domain.name, step.destination)
        for step in trial.steps
        for domain in step.candidate.domains
        if domain.name in group.repeated_names
    }
    assert all(trial.placed_there(name, host) for name, host in repeated), "what was moved is known by its name"
    assert {step.candidate.source for step in trial.steps} == trial._left, "the hosts that were left are known"


def check_search_state(state: SearchState) -> None:
    """The trial holds the same after the same steps."""
    trial = state.trial.copy()
    for step in state.steps:
        trial.apply(step)
    check_trial(trial)
    assert state.moved == set(trial.moved), "both know which domains have a step"
    for host in state.hosts:
        use = np.maximum(state.use[host], 0.0)
        assert np.allclose(use, trial.use[:, host], atol=1e-9, rtol=0), f"use of {trial.group.hosts[host].name}"
        full = (state.use[host] / trial.limit[:, host]).max()
        assert state._fullness[host] == pytest.approx(full, abs=1e-9), "the scarcest resource is known"
        assert state.limit[host] == trial.limit[:, host].tolist(), "limits never change"
        for stock in trial.group.stocks.free:
            assert state._left(stock, host) == trial.free(stock)[host], "both know what is left of the stocks"
    for number, bond in enumerate(trial.group.rules.bonds):
        for zone in set(bond.zones) if bond.hard else ():
            assert state.members[number].get(zone, 0) == trial.members(number).get(zone, 0), bond.name
