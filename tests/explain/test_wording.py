"""What people read about a refusal: every number behind it has a wording of its own."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

import virtpoise_balancer
from random_groups import random_group, varied_group
from virtpoise_balancer.explain import wording
from virtpoise_balancer.model import (
    Detail,
    Move,
    Plan,
    PredictedLoads,
    Prediction,
    PredictionVerdict,
    Reason,
    Refusal,
    Resource,
    Snapshot,
)
from virtpoise_balancer.plan import plan
from virtpoise_balancer.plan.default.consider import consider

RESOURCES = tuple(Resource)
PLAN = Path(virtpoise_balancer.__file__).parent / "plan"
# Keys that the source puts together, and what they are put together from.
JOINED: dict[str, tuple[str, ...]] = {
    "{}_ratio": RESOURCES,
    "{}_upper_ratio": RESOURCES,
    "source_{}_upper_ratio": RESOURCES,
    "hosts_{}": tuple(reason.value for reason in Reason),
    "{}/{}": (),  # the score of a domain whose name is not unique: no detail
}


def literal_keys(node: ast.expr | None) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        pattern = "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
        yield from (pattern.format(part) for part in JOINED[pattern])
    elif isinstance(node, ast.IfExp):
        yield from literal_keys(node.body)
        yield from literal_keys(node.orelse)


def keys_of_the_source() -> set[str]:
    """Every string that a dictionary in plan/ is written with as a key, in the files that write details of refusals."""
    found: set[str] = set()
    sources = [file.read_text(encoding="utf-8") for file in PLAN.rglob("*.py")]
    for source in sources:
        for node in ast.walk(ast.parse(source)) if re.search(r"\b(?:detail=|Detail\b)", source) else ():
            if isinstance(node, ast.Dict):
                found |= {key for one in node.keys for key in literal_keys(one)}
            elif isinstance(node, ast.DictComp):
                found |= set(literal_keys(node.key))
            elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store):
                found |= set(literal_keys(node.slice))
    return found


def details(made: Plan, snapshot: Snapshot) -> Iterator[Detail]:
    yield from (refusal.detail for refusal in made.refusals)
    for domain in snapshot.domains[::9]:
        if considered := consider(snapshot, replace(random_group(0)[1], strategy="default"), domain.uuid):
            yield from (host.detail for host in considered.hosts)


def test_every_key_that_the_source_writes_has_a_wording() -> None:
    keys = keys_of_the_source()
    assert {"cost_bytes", "seconds_left", "cpu_ratio", "missing_cores", "hosts_destination_cpu"} <= keys
    assert [key for key in sorted(keys) if not wording.is_worded(key)] == []


@pytest.mark.parametrize("strategy", ["default", "thesis"])
@pytest.mark.parametrize("make", [random_group, varied_group])
def test_every_number_of_a_plan_has_a_wording(make: object, strategy: str) -> None:
    seen: set[str] = set()
    for seed in range(10):
        snapshot, policy = make(seed)  # type: ignore[operator]
        made = plan(snapshot, replace(policy, strategy=strategy))
        seen |= {key for detail in details(made, snapshot) for key in detail}
    assert len(seen) > 5
    assert [key for key in sorted(seen) if not wording.is_worded(key)] == []


@pytest.mark.parametrize("verdict", [None, *(one for one in get_args(PredictionVerdict) if one != "measured")])
def test_each_verdict_without_a_measurement_has_a_wording(verdict: str | None) -> None:
    assert wording.unmeasured(verdict) in {"not measured yet", "not moved"} or wording.unmeasured(verdict).startswith(
        "not measured, "
    )


def test_what_a_cheaper_move_costs_is_said_in_words() -> None:
    costs = {"cost_bytes": 3 * 2**30, "least_cost_bytes": 2**30}
    assert wording.refusal(Refusal(domain="vm1", host="h1", reason=Reason.COSTLIER, detail=costs)) == (
        "moving other domains costs less (it would copy 3.0 GiB, a domain that is moved instead copies 1.0 GiB)"
    )


def test_hosts_that_refuse_are_counted_with_their_reasons() -> None:
    detail = {"hosts_destination_cpu": 3, "hosts_rule_apart": 1}
    assert wording.details(detail) == (
        "3 hosts: the host's CPU load would be too high with it, "
        "1 host: an anti-affinity rule keeps it apart from a domain on the host"
    )


def test_what_a_move_costs_is_said_as_far_as_it_is_known() -> None:
    loads = PredictedLoads(source=Prediction.exact(0.5), destination=Prediction.exact(0.5))
    move = Move(domain="a", uuid="u", source="h1", destination="h2", predicted=loads)
    assert wording.copying(move) == ""
    assert wording.copying(replace(move, cost_bytes=3 * 2**30)) == "about 3.0 GiB to copy"
    known = replace(move, cost_bytes=3 * 2**30, seconds=30.0, downtime_seconds=0.4)
    assert wording.copying(known) == "about 3.0 GiB to copy in about 30 s, stopped for 400 ms"
    assert wording.copying(replace(move, downtime_seconds=0.4)) == "stopped for 400 ms"
