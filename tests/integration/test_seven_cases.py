"""The thesis' seven test cases (section 5) on real hosts, each held to its column "must happen".

How they are scaled. The thesis has two servers of 8 CPUs, here are two hosts of one CPU; what its algorithm weighs are
ratios (load, share of the host's CPUs), which mean the same on both. Readings come every 2 s instead of 10 s; penalties
of 190 s and 10 s more are 19 s and 2 s more. Thresholds and N are the thesis' own (60 %, N = 2) unless a test says
otherwise. Guests that make "work" catch up on what they could not run, so that their loads add up as those of the
thesis' servers do; each test says why its loads are still the case.
"""

from __future__ import annotations

import time

import pytest

from integration.pool import STEP, Pools

pytestmark = pytest.mark.lab


def test_case_1_nothing_while_alone_and_one_domain_moves_after_another_host_has_joined(pool: Pools) -> None:
    """Server 1 just above 60 %, alone; later server 2, idle, joins: after 2 further readings one VM moves, both end
    below.
    """
    group = pool({"h1": {"a": 30, "b": 20, "c": 17}, "h2": {}})
    group.stack.leave("h2")
    group.start()
    status = group.wait("overload", lambda now: "has no other host to move to" in now["sentence"])
    assert status["hosts"][0]["consecutive"] >= 2
    group.wait_next_cycle(3)
    assert group.balancer.history() == []

    before = time.time()
    group.stack.join("h2")
    (move,) = group.wait_moves(1)
    assert move == ("a", "h1", "h2")
    first_of_h2 = group.readings("h2", before)[0][0]
    assert group.balancer.history()[0]["began"] >= first_of_h2 + STEP  # the second reading in company
    group.wait_settled()
    assert group.moves() == [move]


def test_case_2_a_saturated_source_needs_a_second_round(pool: Pools) -> None:
    """Server 1 well above 70 %, server 2 idle: the first prediction is wrong, since the VMs that stay take the CPU that
    was freed.

    Guests busy for a share of the time: together they want more than the host gives them at the same moments, and get
    more when one leaves.
    """
    # A threshold of 75 %: the fuller the source, the more its domains have gone without, and the more wrong the first
    # prediction. Of 90 % one domain goes, to a predicted 70 %; the others make 80 %. After the second both read 67 %.
    group = pool({"h1": dict.fromkeys("abcd", 42), "h2": {}}, kind="share")
    group.start(threshold=0.75)
    group.wait("first round", lambda now: any(r["result"] == "done" for r in group.balancer.history()))
    first = group.balancer.history()
    predicted = next(end["predicted"] for end in first[-1]["predictions"] if end["role"] == "source")
    assert predicted < 0.75
    group.wait("second round", lambda now: len(group.balancer.history()) > len(first), 90)
    group.wait_moves(len(first) + 1)
    group.wait_settled(threshold=0.75)
    second = group.balancer.history()[len(first)]
    wrong = group.readings("h1", second["began"] - STEP)[0][1]
    assert wrong > predicted + 0.02  # the load that made the second round necessary


def test_case_3_penalties_are_cancelled_by_a_dip_and_moves_by_hand_are_accepted(pool: Pools) -> None:
    """Server 1 above 70 %, server 2 idle: three VMs move.

    Then server 2 is raised, and whatever left it would overload 1.
    """
    group = pool({"h1": dict.fromkeys("abcdefg", 11.7), "h2": {}})
    # Not at full speed: copying three domains would fill both hosts, and the work left undone in that time be done
    # afterwards.
    group.start(migration={"bandwidth_mib_per_second": 16})
    moved = [domain for domain, _, _ in group.wait_moves(3)]
    group.wait_settled()
    assert len(group.moves()) == 3

    def raise_h2(load: float) -> None:
        for domain in moved:
            group.lab.load(domain, load)

    raise_h2(27)
    group.wait("penalty of h2", lambda now: group.balancer.host("h2").get("failures") == 1)
    attempted = time.monotonic()
    assert 0 < group.balancer.host("h2")["penalty_seconds"] <= 19
    group.wait("waiting", lambda now: "h2 waits" in now["sentence"])

    raise_h2(5)  # the dip
    group.wait("end of the penalty", lambda now: group.balancer.host("h2")["failures"] == 0)
    raise_h2(27)
    group.wait("second attempt", lambda now: group.balancer.host("h2")["failures"] == 1)
    assert time.monotonic() - attempted < 19, "the penalty was served although a reading lay below the threshold"

    group.lab.migrate(moved[0], "h1")
    group.wait("penalty of h1", lambda now: group.balancer.host("h1").get("failures") == 1, 90)
    assert moved[0] in group.balancer.host("h1")["domains"]
    assert len(group.moves()) == 3


def test_case_4_one_domain_each_way(pool: Pools) -> None:
    """Server 1 is raised above 60 % and settles; then server 2 is raised: one VM each way, both end below.

    The thesis' formula makes 32 % of the 48 % of `a`. Server 1 has a load of its own of 35 %, so `a` cannot go back.
    """
    group = pool({"h1": {"a": 12, "b": 7, "c": 6, "d": 22}, "h2": {"e": 4}})
    group.start()
    group.wait_settled()
    group.lab.load("a", 48)
    assert group.wait_moves(1) == [("a", "h1", "h2")]
    group.wait_settled()
    group.lab.load("e", 15)
    assert group.wait_moves(2)[1:] == [("e", "h2", "h1")]
    group.wait_settled()
    assert len(group.moves()) == 2


def test_case_5_then_only_a_nearly_idle_domain_can_move(pool: Pools) -> None:
    """Server 1 well above, server 2 half full; after it settles server 1 is raised again: nothing fits but a VM that is
    nearly idle.

    75 % and 40 % are 65 % and 16 % here: on one CPU each domain is a larger part, and these leave room for the idle
    one, and for none of the others by what the thesis' formula makes of it.
    """
    group = pool({"h1": {"a": 34, "b": 6, "c": 25, "idle": 0}, "h2": {"e": 16}})
    group.start()
    assert group.wait_moves(1) == [("a", "h1", "h2")]
    group.wait_settled()
    group.lab.load("b", 42)
    assert group.wait_moves(2)[1:] == [("idle", "h1", "h2")]
    # A plan that is carried out in part has not solved the problem: the host has its penalty.
    group.wait("penalty of h1", lambda now: group.balancer.host("h1")["failures"] == 1)
    assert len(group.moves()) == 2


def test_case_6_a_host_at_half_load_drains(pool: Pools) -> None:
    """Server 1 drains: six VMs move, the receiver stays below 60 % all the time, and the host is out of the group.

    About 50 % are some 20 % here (with what each guest needs by itself): what receiving costs, a QEMU to start and
    memory to write, is eight times the part of a one-CPU host, and up to 30 % of a reading. The thesis' migrations took
    70 s each, so these are not made at full speed either.
    """
    loads = {"a": 3, "b": 2, "c": 2, "d": 1, "e": 1, "f": 1}
    group = pool({"h1": loads, "h2": {"own": 2}})
    group.start(migration={"bandwidth_mib_per_second": 16})
    group.wait_settled(steps=2)
    began = time.time()
    done = group.balancer.run("drain", "h1", "--wait")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "h1 is empty.")
    assert sorted(group.wait_moves(6)) == [(name, "h1", "h2") for name in loads]
    group.wait_settled()
    assert max(load for _, load in group.readings("h2", began)) < 0.6
    host = group.balancer.host("h1")
    assert (host["state"], host["domains"]) == ("draining", [])

    last = group.balancer.run("drain", "h2")
    assert (last.returncode, last.stderr) == (
        1,
        "virtpoise: h2: it is the last host of the group, there is nowhere to move its domains\n",
    )


def test_case_7_penalties_of_the_initial_length_and_then_one_step_more(pool: Pools) -> None:
    """Both servers above the threshold: both fail, with penalties of 190 s and 200 s; when one falls, the other moves
    one VM.

    The thesis takes a threshold of 20 % because it could not make more load; on one CPU a domain is a larger part of
    it, so it is 40 % here.
    """
    group = pool({"h1": {"a": 29, "b": 16}, "h2": {"c": 30, "d": 15}})
    group.start(threshold=0.4)
    for failures, longest in ((1, 19), (2, 21)):
        for penalty, gone in group.wait_failures(failures).values():
            assert longest - 3 - gone < penalty <= longest
    assert group.balancer.history() == []

    group.lab.load("c", 2)
    group.lab.load("d", 0)
    assert group.wait_moves(1) == [("a", "h1", "h2")]
    group.wait_settled(threshold=0.4)
    assert len(group.moves()) == 1
