from __future__ import annotations

from dataclasses import replace

import pytest

from builders import domain, group, host, shut_off
from virtpoise_balancer.model import HostState, Policy, Reason, Rule, Trigger
from virtpoise_balancer.plan.default.consider import consider

POLICY = Policy(
    cpu=Trigger(threshold=0.8, consecutive=2),
    rules=(
        Rule(name="not-there", kind="never_on", domains=("a",), hosts=("h3",)),
        Rule(name="apart", kind="apart", domains=("a", "c"), hard=False),
    ),
)
GROUP = group(
    host("h1", 0.5, 0.5),
    host("h2", 0.6, 0.6),
    host("h3", 0.1, 0.1),
    host("h4", 0.1, 0.1, state=HostState.STANDBY),
    host("h5", 0.1, 0.1),
    domain("a", "h1", 2.0, last_moved=999.0),
    domain("c", "h5", 0.1),
    shut_off("off", "h1"),
)


def test_each_pair_has_its_verdict_with_the_numbers_although_no_host_has_a_problem() -> None:
    told = consider(GROUP, POLICY, "uuid-of-a")
    assert told is not None
    assert {one.host: one.reason for one in told.hosts} == {
        "h2": Reason.DESTINATION_CPU,
        "h3": Reason.RULE_NEVER_ON,
        "h4": Reason.HOST_STANDBY,
        "h5": None,
    }
    full = next(one for one in told.hosts if one.host == "h2")
    assert full.detail["predicted_upper_ratio"] == pytest.approx(0.6 + 0.25 + 0.03)
    assert full.detail["missing_cores"] == pytest.approx(0.08 * 8)
    assert full.room_ratio == pytest.approx(-0.1)


def test_each_rule_has_its_verdict() -> None:
    told = consider(GROUP, POLICY, "uuid-of-a")
    assert told is not None
    kept = {one.host: {rule.rule: rule.kept for rule in one.rules} for one in told.hosts}
    assert kept["h3"] == {"not-there": False, "apart": True}
    assert kept["h5"] == {"not-there": True, "apart": False}


def test_what_holds_the_domain_itself_and_what_it_wants() -> None:
    told = consider(GROUP, POLICY, "uuid-of-a")
    assert told is not None
    assert told.held is not None
    assert told.held.reason is Reason.RESTING
    assert (told.demand_lower_cores, told.demand_cores, told.demand_upper_cores) == (2.0, 2.0, 2.0)
    assert told.gain_ratio == pytest.approx(0.25)


def test_nothing_is_considered_about_what_does_not_run_or_is_unknown() -> None:
    assert consider(GROUP, POLICY, "uuid-of-off") is None
    assert consider(GROUP, POLICY, "nobody") is None
    unknown = replace(GROUP, hosts=tuple(replace(h, cpu_ratio=()) if h.name == "h1" else h for h in GROUP.hosts))
    assert consider(unknown, POLICY, "uuid-of-a") is None
