"""Why something is (not) done, in words: always an answer, with the numbers."""

from dataclasses import replace
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import domain, group, host, shut_off
from virtpoise_balancer.explain import wording
from virtpoise_balancer.explain.explain import Explanation, explain
from virtpoise_balancer.model import HostState, Policy, Reason, Refusal, Rule, Snapshot
from virtpoise_balancer.plan import plan

POLICY = Policy()
GROUP = group(
    host("h1", 0.9, 0.9, 0.9),
    host("h2", 0.3, 0.3, 0.3),
    host("h3", 0.79, 0.79, 0.79),
    host("h4", state=HostState.UNKNOWN),
    host("h5", 0.2, 0.2, 0.2, state=HostState.DRAINING),
    domain("a", "h1", 2.4),
    domain("b", "h1", 2.4),
    domain("pinned", "h1", 1.0),
    shut_off("off", "h1"),
    domain("calm", "h2", 0.5),
)
RULED = replace(POLICY, rules=(Rule(name="stay", kind="ignore", domains=("pinned",)),))


def why(name: str, snapshot: Snapshot = GROUP, policy: Policy = RULED) -> Explanation:
    (found,) = explain(snapshot, policy, plan(snapshot, policy), name)
    return found


def test_a_domain_that_is_moved() -> None:
    made = plan(GROUP, RULED)
    found = why(made.moves[0].domain)
    assert found.verdict == f"{made.moves[0].domain} is to be migrated from h1 to {made.moves[0].destination}."
    assert any(f"{made.moves[0].predicted.source.cpu_ratio:.0%}" in reason for reason in found.reasons)


def test_of_an_unknown_host_no_room_is_shown_and_it_comes_last() -> None:
    found = why("a").destinations
    assert [(one.host, one.takes) for one in found if one.room_ratio is None] == [("h4", False)]
    assert found[-1].host == "h4"


@pytest.mark.parametrize(
    ("name", "verdict", "says"),
    [
        ("pinned", "pinned stays on h1.", "A rule excludes it from balancing (rule stay)."),
        ("off", "off stays on h1.", "only running domains are migrated"),
        (
            "calm",
            "calm stays on h2.",
            "h2 is at 30% CPU, below the threshold of 80%, so nothing has to be moved off it.",
        ),
        ("h4", "h4 is not a destination.", "The host is unknown, so nothing is migrated"),
        ("h5", "h5 is not a destination.", "The host is being drained"),
        (
            "h1",
            "h1 is overloaded, so it is not a destination.",
            "3 consecutive samples at or above 80% (3 make it a problem)",
        ),
        ("h2", "h2 is a destination in this plan.", "is to be migrated here from h1."),
    ],
)
def test_what_stays_and_who_takes_nothing(name: str, verdict: str, says: str) -> None:
    found = why(name)
    assert found.verdict == verdict
    assert says in " ".join(found.reasons)


def test_a_host_without_memory_left_is_told_so_and_its_domains_are_not_judged_by_their_cpu() -> None:
    full = host("h1", 0.3, 0.3, 0.3, memory_ratio=0.95, memory_ratio_window=(0.95, 0.95, 0.95))
    small = group(full, host("h2", 0.2, memory_ratio=0.89), domain("lazy", "h1", 0.01), domain("idle", "h1", 0.0))
    (standing, *_) = why("h1", small).reasons
    assert standing == (
        "h1 is at 30% CPU, below the threshold of 80%; "
        "its memory use is at 95%, 3 consecutive samples at or above 90% (3 make it a problem)."
    )
    assert why("h1", small).verdict == "h1 is overloaded, so it is not a destination."
    for name in ("lazy", "idle"):
        assert wording.reason(Reason.LEAST_GAIN) not in " ".join(why(name, small).reasons).lower()
    calm = replace(small, hosts=(replace(full, memory_ratio_window=(0.95,)), small.hosts[1]))
    assert "memory use is at 95%, 1 sample at or above 90%" in " ".join(why("idle", calm).reasons)
    assert "memory" not in why("h1", small, replace(POLICY, strategy="thesis")).reasons[0]


def test_of_a_drain_that_waits_it_is_not_said_that_nothing_has_to_be_moved() -> None:
    alone = group(host("h1", 0.2, state=HostState.DRAINING), domain("a", "h1", 1.0))
    assert why("a", alone).reasons[0].startswith("h1 is draining, but this plan does not attempt to drain it: ")


def test_every_rule_about_a_domain_is_shown_for_each_destination() -> None:
    rules = (
        Rule(name="near", kind="only_on", domains=("a",), hosts=("h1", "h2")),
        Rule(name="spread", kind="apart", domains=("a", "calm"), hard=False),
    )
    told = {one.host: one.why for one in why("a", policy=replace(POLICY, rules=rules)).destinations}
    assert "rule near kept, soft rule spread broken" in told["h2"]
    assert "rule near broken, soft rule spread kept" in told["h3"]


def test_every_other_host_is_told_as_a_destination_the_best_first() -> None:
    found = why("pinned")
    assert found.destinations[0].host == "h2"
    takes = {one.host: one.takes for one in found.destinations}
    assert takes == {"h2": True, "h3": False, "h4": False, "h5": False}
    full = next(one for one in found.destinations if one.host == "h3")
    assert full.why.startswith("the host's CPU load would be too high with it (CPU load now 79%")
    assert any("Its demand is 1.00 cores" in reason for reason in found.reasons)


def test_a_host_that_was_passed_over_is_shown_with_the_reason() -> None:
    (first, *_) = plan(GROUP, RULED).moves
    (told, *_) = [reason for reason in why("h3").reasons if "goes to" in reason]
    assert told.startswith(f"{first.domain} goes to h2: the host's CPU load would be too high with it (")


def test_two_domains_of_one_name_are_each_explained_and_a_uuid_is_enough() -> None:
    twins = replace(GROUP, domains=(*GROUP.domains, domain("calm", "h3", 0.1, uuid="other")))
    assert len(explain(twins, POLICY, plan(twins, POLICY), "calm")) == 2
    assert why("other", twins).verdict == "calm stays on h3."
    assert explain(GROUP, POLICY, plan(GROUP, POLICY), "nothing") == ()


def test_a_domain_is_not_shown_what_was_refused_to_another_of_its_name() -> None:
    twins = replace(GROUP, domains=(*GROUP.domains, domain("pinned", "h2", 0.4, uuid="other")))
    policy = replace(POLICY, rules=(Rule(name="stay", kind="ignore", domains=("uuid-of-pinned",)),))
    assert "A rule excludes it from balancing (rule stay)." in why("uuid-of-pinned", twins, policy).reasons
    assert why("other", twins, policy).reasons[0] == (
        "h2 is at 30% CPU, below the threshold of 80%, so nothing has to be moved off it."
    )
    made = replace(
        plan(twins, policy),
        refusals=(Refusal(domain="pinned", uuid="uuid-of-pinned", host="h2", reason=Reason.NAME_TAKEN),),
    )
    says = {uuid: explain(twins, policy, made, uuid)[0].reasons for uuid in ("uuid-of-pinned", "other")}
    assert any("already has a domain of this name" in reason for reason in says["uuid-of-pinned"])
    assert not any("already has a domain of this name" in reason for reason in says["other"])


@given(
    loads=st.lists(st.floats(0.05, 1.0), min_size=1, max_size=5),
    cores=st.lists(st.floats(0.0, 4.0), max_size=8),
    strategy=st.sampled_from(["default", "thesis"]),
)
def test_every_host_and_domain_of_every_plan_has_an_answer_without_a_raw_name(
    loads: list[float], cores: list[float], strategy: Literal["default", "thesis"]
) -> None:
    members = [host(f"h{n}", load, load, load) for n, load in enumerate(loads)]
    domains = [domain(f"d{n}", f"h{n % len(loads)}", one) for n, one in enumerate(cores)]
    snapshot = group(*members, *domains)
    policy = replace(POLICY, strategy=strategy)
    made = plan(snapshot, policy)
    for name in [*(one.name for one in members), *(one.name for one in domains)]:
        (found,) = explain(snapshot, policy, made, name)
        assert found.verdict.startswith(name)
        assert found.reasons
        assert not any("_" in reason for reason in found.reasons), found.reasons


def test_every_reason_has_words() -> None:
    for reason in Reason:
        assert wording.refusal(Refusal(reason=reason)) == wording.reason(reason) != ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0.056, "56 ms"),
        (4.26, "4.3 s"),
        (59.4, "59 s"),
        (60, "1 min"),
        (76, "1 min 16 s"),
        (3600, "1 h"),
        (5400, "1 h 30 min"),
        (90_000, "1 d 1 h"),
    ],
)
def test_lengths_of_time_are_written_in_two_units(seconds: float | None, text: str) -> None:
    assert wording.duration(seconds) == text


@pytest.mark.parametrize(
    ("amount", "text"),
    [(None, "-"), (0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (2**30, "1.0 GiB"), (2**44, "16.0 TiB")],
)
def test_bytes_are_written_in_binary_units(amount: float | None, text: str) -> None:
    assert wording.size(amount) == text
