"""Four hosts in two groups with one Prometheus: an overload in each is relieved inside it.

Groups that stand still hold none of them up.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
import requests

from integration.pool import Pools
from virtpoise_lab.balancer import ADDRESS, Balancer
from virtpoise_lab.processes import wait_until

pytestmark = pytest.mark.lab

MATCHERS = {"blue": 'instance=~"h[12]:.*"', "red": 'instance=~"h[34]:.*"', "none": 'rack="x"', "wrong": 'rack=~"("'}


def ask(path: str) -> Any:
    return requests.get(f"http://{ADDRESS}/api/v1/{path}", timeout=5).json()


def moves(group: str) -> list[tuple[str, str]]:
    found = ask(f"history?group={group}")
    return [(one["source"], one["destination"]) for one in found if one["result"] == "done"]


def launch(balancer: Balancer) -> None:
    """Start it, and wait for the first cycle of each group."""
    balancer.launch()

    def answers() -> bool:
        try:
            return all(one["cycle_at"] for one in ask("groups"))
        except requests.RequestException:
            assert balancer.ended is None, balancer.last_words()
            return False

    wait_until(answers, 60, "its first cycles")


def test_each_group_is_relieved_inside_and_none_waits_for_another(pool: Pools) -> None:
    group = pool({"h1": {"vm1": 35, "vm2": 35}, "h2": {}, "h3": {"vm3": 35, "vm4": 35}, "h4": {}})
    groups = {name: {"matchers": matchers} for name, matchers in MATCHERS.items()}
    group.configure(strategy="default", groups=groups)
    balancer = group.balancer
    launch(balancer)
    wait_until(lambda: all(map(moves, ("blue", "red"))), 120, "a migration in each group")
    assert set(moves("blue")) == {("h1", "h2")}
    assert set(moves("red")) == {("h3", "h4")}
    for name in ("vm1", "vm2", "vm3", "vm4"):
        group.lab.load(name, 1)  # the rest is about no overload
    sentences = {one["name"]: one["sentence"] for one in ask("groups")}
    assert sentences["none"] == "no host is scraped: nothing to do"
    assert sentences["wrong"].startswith("nothing is done: ")
    assert "\n" not in sentences["wrong"]
    drained = balancer.run("drain", "h4", "--wait")
    assert drained.returncode == 0, drained.stderr
    assert set(moves("red")) == {("h3", "h4"), ("h4", "h3")}
    status = json.loads(balancer.run("status", "--output", "json").stdout)
    assert {name: [host["name"] for host in one["hosts"]] for name, one in status.items()} == {
        "blue": ["h1", "h2"],
        "red": ["h3", "h4"],
        "none": [],
        "wrong": [],
    }
    examined = balancer.run("doctor", "--group", "red")
    assert "red: h3 → h4: reached" in examined.stdout
    assert "h1" not in examined.stdout
