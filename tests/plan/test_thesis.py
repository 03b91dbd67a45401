"""The strategy `thesis` to the letter of its source: the scores of Figures 10 and 11, the walk of section 4.4.6."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import domain, group, host, shut_off, thesis_policy
from virtpoise_balancer.model import Domain, Host, HostState, Problem, Reason, Snapshot
from virtpoise_balancer.plan import plan


def figure_10() -> Snapshot:
    """The three servers of Figure 10: (active, inactive, load, memory ratio)."""
    servers = {"s1": (1, 4, 0.04, 0.60), "s2": (3, 3, 0.20, 0.50), "s3": (5, 1, 0.55, 0.65)}
    members: list[Host | Domain] = []
    for name, (active, inactive, load, memory) in servers.items():
        members.append(host(name, load, load, memory_ratio=memory))
        members += [domain(f"{name}-on{i}", name) for i in range(active)]
        members += [shut_off(f"{name}-off{i}", name) for i in range(inactive)]
    return group(*members)


def figure_11() -> Snapshot:
    """The domains of Figure 11 on a server that is full, so that their loads are 0.4, 0.2 and 0.05."""
    loads = {"a": 0.4, "b": 0.2, "c": 0.05}
    return group(
        host("s1", 1.0, 1.0),
        host("s2", 0.1, 0.1),
        *(domain(name, "s1", load * 8, rx_ratio=0.03, tx_ratio=0.01) for name, load in loads.items()),
    )


def test_scores_of_the_servers_of_figure_10() -> None:
    scores = plan(figure_10(), thesis_policy()).scores.hosts
    assert scores == {
        "s1": pytest.approx(2.247, abs=0.001),
        "s2": pytest.approx(1.994, abs=0.001),
        "s3": pytest.approx(1.667, abs=0.001),
    }


def test_scores_of_the_domains_of_figure_11() -> None:
    scores = plan(figure_11(), thesis_policy()).scores.domains
    assert scores == {"a": pytest.approx(0.287), "b": pytest.approx(0.147), "c": pytest.approx(0.042)}


def test_only_candidates_are_scored_when_a_host_is_overloaded() -> None:
    made = plan(figure_11(), thesis_policy())
    assert set(made.scores.hosts) == {"s2"}


def test_a_domains_load_is_the_products_of_server_load_and_share() -> None:
    """2 of 8 cores on a server at 0.8: 0.8 x 0.25 = 0.2 leaves the source and arrives at the destination."""
    made = plan(group(host("s1", 0.8, 0.8), host("s2", 0.1, 0.1), domain("a", "s1", 2.0)), thesis_policy(0.7))
    (move,) = made.moves
    assert move.predicted.source.cpu_ratio == pytest.approx(0.6)
    assert move.predicted.destination.cpu_ratio == pytest.approx(0.3)
    assert made.solved


def test_moves_the_worst_offender_to_the_best_server_and_stops_below_the_threshold() -> None:
    made = plan(
        group(
            host("s1", 0.7, 0.7),
            host("s2", 0.3, 0.3),
            host("s3", 0.1, 0.1),
            domain("small", "s1", 1.0),
            domain("big", "s1", 3.0),
        ),
        thesis_policy(),
    )
    assert [(move.domain, move.destination) for move in made.moves] == [("big", "s3")]
    assert [(r.domain, r.reason) for r in made.refusals] == [("small", Reason.NOT_NEEDED)]


def test_servers_are_sorted_again_after_each_assignment() -> None:
    """The first domain makes s2 the lesser choice, so the second goes to s3."""
    made = plan(
        group(
            host("s1", 1.0, 1.0),
            host("s2", 0.10, 0.10),
            host("s3", 0.12, 0.12),
            domain("a", "s1", 2.0),
            domain("b", "s1", 1.9),
        ),
        thesis_policy(),
    )
    assert [(move.domain, move.destination) for move in made.moves] == [("a", "s2"), ("b", "s3")]


def test_a_domain_that_no_server_takes_leaves_the_next_its_turn_and_the_partial_plan_stands() -> None:
    made = plan(figure_11(), thesis_policy(0.4))
    assert [move.domain for move in made.moves] == ["b", "c"]
    assert not made.solved
    assert made.attempts[0].solved is False
    refusal = made.refusals[0]
    assert (refusal.domain, refusal.host, refusal.reason) == ("a", "s2", Reason.DESTINATION_CPU)
    assert refusal.detail == {
        "cpu_ratio": pytest.approx(0.1),
        "domain_ratio": pytest.approx(0.4),
        "predicted_ratio": pytest.approx(0.5),
        "threshold": 0.4,
    }


def test_a_destination_must_stay_below_the_threshold_not_at_it() -> None:
    made = plan(group(host("s1", 1.0, 1.0), host("s2", 0.25, 0.25), domain("a", "s1", 2.0)), thesis_policy(0.5))
    assert made.moves == ()


def test_no_attempt_while_alone_in_the_group() -> None:
    made = plan(group(host("s1", 0.9, 0.9), domain("a", "s1", 4.0)), thesis_policy())
    assert (made.moves, made.attempts, made.solved) == ((), (), False)
    assert [(r.host, r.reason) for r in made.refusals] == [("s1", Reason.ALONE)]
    assert made.summary == "s1 is overloaded (CPU load 90%, 2 consecutive samples) and has no other host to move to"


def test_no_attempt_during_a_penalty() -> None:
    snapshot = group(
        host("s1", 0.9, 0.9, penalty_until=1100.0), host("s2", 0.1, 0.1), domain("a", "s1", 4.0), time=1000.0
    )
    made = plan(snapshot, thesis_policy())
    assert (made.moves, made.attempts, made.solved) == ((), (), False)
    assert made.refusals[0].detail == {"seconds_left": 100.0}
    assert plan(replace(snapshot, time=1100.0), thesis_policy()).moves
    began_late = replace(snapshot, hosts=(replace(snapshot.hosts[0], penalty_until=1100.02), *snapshot.hosts[1:]))
    assert plan(replace(began_late, time=1100.0), thesis_policy()).moves, "not for a step more"
    assert plan(replace(began_late, time=1090.0), thesis_policy()).moves == ()


def test_an_unknown_host_is_neither_source_nor_destination() -> None:
    unknown = host("s2", state=HostState.UNKNOWN)
    made = plan(group(host("s1", 0.9, 0.9), unknown, host("s3", 0.5, 0.5), domain("a", "s1", 4.0)), thesis_policy())
    assert made.moves == ()
    assert (("s2", Reason.HOST_UNKNOWN)) in [(r.host, r.reason) for r in made.refusals]


def test_draining_moves_everything_below_the_threshold_and_takes_nothing() -> None:
    draining = host("s1", 0.5, 0.5, state=HostState.DRAINING)
    snapshot = group(
        draining, host("s2", 0.2, 0.2), *(domain(f"d{i}", "s1", 0.5) for i in range(6)), domain("own", "s2", 1.0)
    )
    made = plan(snapshot, thesis_policy())
    assert sorted(move.domain for move in made.moves) == [f"d{i}" for i in range(6)]
    assert made.solved
    assert all(move.predicted.destination.cpu_ratio < 0.6 for move in made.moves)
    assert made.attempts[0].problem is Problem.DRAIN


def test_a_drain_that_does_not_fit_is_not_solved() -> None:
    draining = host("s1", 0.5, 0.5, state=HostState.DRAINING)
    made = plan(
        group(draining, host("s2", 0.55, 0.55), domain("a", "s1", 3.0), domain("b", "s1", 0.5)), thesis_policy()
    )
    assert [move.domain for move in made.moves] == ["b"]
    assert not made.solved


def test_one_problem_at_a_time_and_one_without_moves_leaves_the_next_its_turn() -> None:
    members = [host("s1", 0.9, 0.9), host("s2", 0.8, 0.8), host("s3", 0.1, 0.1)]
    both = plan(group(*members, domain("a", "s1", 3.0), domain("b", "s2", 3.0)), thesis_policy())
    assert [move.domain for move in both.moves] == ["a"]
    assert ("s2", Reason.WAITING) in [(r.host, r.reason) for r in both.refusals]
    stuck = plan(group(*members, domain("a", "s1", 6.0), domain("b", "s2", 3.0)), thesis_policy())
    assert [move.domain for move in stuck.moves] == ["b"]
    assert [(attempt.host, attempt.solved) for attempt in stuck.attempts] == [("s1", False), ("s2", True)]


def test_a_host_that_holds_a_domain_of_that_name_is_no_destination() -> None:
    made = plan(
        group(host("s1", 0.9, 0.9), host("s2", 0.1, 0.1), domain("a", "s1", 4.0), domain("a", "s2", uuid="other")),
        thesis_policy(),
    )
    assert made.moves == ()
    assert made.refusals[0].reason is Reason.NAME_TAKEN


loads = st.floats(0.0, 1.0)


@st.composite
def groups(draw: st.DrawFn) -> Snapshot:
    hosts = [host(f"h{i}", *[draw(loads)] * 2, cpus=draw(st.integers(1, 16))) for i in range(draw(st.integers(1, 6)))]
    domains = [
        domain(f"d{i}", draw(st.sampled_from(hosts)).name, draw(st.floats(0, 4)))
        for i in range(draw(st.integers(0, 12)))
    ]
    return group(*hosts, *domains)


@given(groups(), st.randoms())
def test_the_order_of_the_input_does_not_matter(snapshot: Snapshot, random: object) -> None:
    hosts, domains = list(snapshot.hosts), list(snapshot.domains)
    random.shuffle(hosts)  # type: ignore[attr-defined]
    random.shuffle(domains)  # type: ignore[attr-defined]
    shuffled = replace(snapshot, hosts=tuple(hosts), domains=tuple(domains))
    assert plan(shuffled, thesis_policy()).moves == plan(snapshot, thesis_policy()).moves


@given(groups())
def test_every_prefix_keeps_each_destination_below_the_threshold_and_no_domain_moves_twice(snapshot: Snapshot) -> None:
    made = plan(snapshot, thesis_policy())
    assert all(move.predicted.destination.cpu_ratio < 0.6 for move in made.moves)
    assert len({move.uuid for move in made.moves}) == len(made.moves)
    assert len({move.source for move in made.moves}) <= 1


@given(groups())
def test_a_group_below_the_threshold_is_left_alone(snapshot: Snapshot) -> None:
    calm = replace(
        snapshot, hosts=tuple(replace(h, cpu_ratio=tuple(r * 0.59 for r in h.cpu_ratio)) for h in snapshot.hosts)
    )
    made = plan(calm, thesis_policy())
    assert (made.moves, made.solved) == ((), True)


@given(groups())
def test_at_most_n_times_m_minus_1_checks(snapshot: Snapshot) -> None:
    made = plan(snapshot, thesis_policy())
    for attempt in made.attempts:
        running = sum(d.host == attempt.host for d in snapshot.domains)
        checks = sum(r.domain is not None and r.host is not None for r in made.refusals) + len(made.moves)
        if len(made.attempts) == 1:
            assert checks <= running * (len(snapshot.hosts) - 1)
