"""Scenes whose sentences are read: each number names its resource, and each reason the host that it is about."""

from __future__ import annotations

import re

import pytest

from builders import GIB, domain, group, host
from random_groups import random_group, varied_group
from virtpoise_balancer.explain import wording
from virtpoise_balancer.explain.explain import Explanation, explain
from virtpoise_balancer.model import DomainState, Host, HostState, Policy, Reason, Resource, Rule, Snapshot
from virtpoise_balancer.plan import plan

POLICY = Policy()
ABOUT_A_DESTINATION = {reason for reason in Reason if reason.value.startswith(("host_", "destination_", "lacks_"))} | {
    Reason.NAME_TAKEN
}


def loaded(name: str, cpu: float = 0.3, **ratios: float) -> Host:
    """A host that has had these shares in use for three samples."""
    windows: dict[str, object] = {f"{what}_ratio_window": (ratio,) * 3 for what, ratio in ratios.items()}
    return host(name, *(cpu,) * 3, **{f"{what}_ratio": ratio for what, ratio in ratios.items()}, **windows)  # type: ignore[arg-type]


def explained(snapshot: Snapshot, name: str, policy: Policy = POLICY) -> Explanation:
    (found,) = explain(snapshot, policy, plan(snapshot, policy), name)
    return found


def words(snapshot: Snapshot, *names: str, policy: Policy = POLICY) -> str:
    """All that is said of these hosts and domains, and the plan's own sentence and reasons."""
    made = plan(snapshot, policy)
    said = [made.summary, *(move.why or "" for move in made.moves)]
    for name in names:
        found = explained(snapshot, name, policy)
        said += [found.verdict, *found.reasons, *(one.why for one in found.destinations)]
    return "\n".join(said)


SHORT_OF_MEMORY = group(
    loaded("h1", memory=0.95),
    loaded("h2", memory=0.3),
    domain("a", "h1", 0.5, memory_bytes=GIB),
    domain("b", "h1", 0.5, memory_bytes=GIB),
)


def test_a_memory_problem_says_what_memory_comes_to() -> None:
    made = plan(SHORT_OF_MEMORY, POLICY)
    assert made.summary == (
        "h1 is overloaded (memory use 95%, 3 consecutive samples): move a to h2 (h1's memory use is predicted at 82%)"
    )
    assert made.moves[0].why == "relieves h1: its memory use comes to at most 82%"
    assert "CPU" not in (made.summary + str(made.moves[0].why))
    stays = explained(SHORT_OF_MEMORY, "b").reasons[0]
    assert stays == ("Its host needs no further move (its host's memory use will be at most at 82%, relieved at 85%).")


def test_a_prediction_names_each_resource_that_the_problem_is_about() -> None:
    both = group(
        loaded("h1", 0.9, memory=0.95),
        loaded("h2", 0.2, memory=0.2),
        *(domain(name, "h1", 2.4, memory_bytes=GIB) for name in ("a", "b", "c")),
    )
    made = plan(both, POLICY)
    assert made.solved
    assert "h1 is overloaded (CPU load 90%, memory use 95%, 3 consecutive samples)" in made.summary
    assert re.search(r"\(h1's CPU load is predicted at \d+%, its memory use at \d+%\)", made.summary)
    assert re.fullmatch(
        r"relieves h1: its CPU load comes to at most \d+% and its memory use to at most \d+%", str(made.moves[0].why)
    )


def test_an_unsolved_problem_names_the_resource_that_is_short() -> None:
    stuck = group(loaded("h1", memory=0.95), loaded("h2", memory=0.89), domain("a", "h1", 0.5, memory_bytes=GIB))
    said = words(stuck, "h1")
    assert "its memory use will be at most at 95%" in said
    assert "CPU load will be" not in said


def test_all_hosts_are_overloaded_and_none_is_named_as_a_destination_of_its_own_domain() -> None:
    full = group(*(loaded(f"h{n}", 0.9) for n in (1, 2, 3)), domain("a", "h1", 2.4), domain("b", "h1", 2.4))
    said = words(full, "a")
    assert "needs no further move" not in said
    assert "1 host:" not in said
    assert "2 hosts: the host is overloaded itself, so it takes no domains" in said


def test_of_a_domain_that_is_bound_to_a_draining_host_its_rule_is_named() -> None:
    bound = Policy(rules=(Rule(name="p", kind="only_on", domains=("a",), hosts=("h1",)),))
    draining = group(host("h1", 0.3, state=HostState.DRAINING), host("h2", 0.3), domain("a", "h1", 1.0))
    reasons = " ".join(explained(draining, "a", bound).reasons)
    assert "takes no domains" not in reasons
    assert "a host affinity rule allows it only on other hosts (rule p" in reasons


@pytest.mark.parametrize("others", [(), (domain("b", "h1", 1.0),)])
def test_a_drain_counts_the_paused_domains_that_stay(others: tuple[object, ...]) -> None:
    paused = domain("a", "h1", 1.0, state=DomainState.PAUSED)
    draining = group(host("h1", 0.3, state=HostState.DRAINING), host("h2", 0.3), paused, *others)  # type: ignore[arg-type]
    said = words(draining, "h1", "a")
    assert "domains that stay: 1" in said
    assert "domains that stay: 0" not in said
    assert "It is paused, and only running domains are migrated." in said
    assert "predicted" not in plan(draining, POLICY).summary
    assert plan(draining, POLICY).summary.endswith("1 domain stays")


def test_load_that_no_domain_causes_is_named_as_the_hosts_own() -> None:
    own = group(loaded("h1", 0.9), loaded("h2"), domain("a", "h1", 0.4))
    said = words(own, "h1")
    assert "85% are the host's own, which no migration takes off it" in said
    assert "85% are the host's own" in plan(own, POLICY).summary
    alone = group(loaded("h1", 0.9), loaded("h2"))
    assert "90% are the host's own" in plan(alone, POLICY).summary


def test_load_of_domains_is_not_named_as_the_hosts_own() -> None:
    theirs = group(loaded("h1", 0.9), loaded("h2", 0.79), *(domain(f"vm{n}", "h1", 2.3) for n in range(3)))
    made = plan(theirs, POLICY)
    assert not made.solved
    assert "own" not in words(theirs, "h1")


@pytest.mark.parametrize("seed", range(60))
def test_no_host_refuses_a_domain_that_is_on_it(seed: int) -> None:
    snapshot, policy = varied_group(seed)
    made = plan(snapshot, policy)
    for one in made.refusals:
        if one.uuid is None:
            continue
        count = sum(int(n) for key, n in one.detail.items() if key.startswith("hosts_") and isinstance(n, int))
        assert count < len(snapshot.hosts), wording.refusal(one)
        if one.reason in ABOUT_A_DESTINATION:
            assert one.host not in {found.host for found in snapshot.domains if found.uuid == one.uuid}


@pytest.mark.parametrize("seed", range(60))
def test_every_number_of_an_overload_is_of_a_resource_that_is_overloaded(seed: int) -> None:
    snapshot, policy = random_group(seed)
    made = plan(snapshot, policy)
    short = {one.host: {o.resource for o in made.overloaded if o.host == one.host} for one in made.overloaded}
    for part in made.summary.split("; "):
        name = part.partition(" ")[0]
        if " is overloaded (" in part:
            assert {resource for resource in Resource if resource.use in part} == short[name]


def test_what_does_not_solve_an_overload_is_shown_with_the_number_that_says_so() -> None:
    """A host was "predicted at 54%, which does not solve it", under a threshold of 60%."""
    shown = 0
    for seed in range(30, 80):
        snapshot, policy = random_group(seed)
        for part in plan(snapshot, policy).summary.split("; "):
            found = re.search(r"CPU load is predicted at (\d+)%(?: or up to (\d+)%)?, which does not solve it", part)
            if found and "overloaded (CPU load" in part:
                shown += 1
                assert int(found[2] or found[1]) >= round(100 * policy.cpu.recovery_ratio), part
    assert shown > 5
