"""Others act, too, on real hosts: an administrator with virsh, and a second balancer with a store of its own."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from integration.pool import CALM, STEP, Pool, Pools, places
from virtpoise_lab.balancer import Balancer

pytestmark = [pytest.mark.lab, pytest.mark.second_lab]


Change = tuple[str, str, str | None, str | None]


def others(balancer: Balancer) -> list[Change]:
    """What is not the balancer's, as its command shows it; oldest first."""
    found = json.loads(balancer.run("history", "--others", "--output", "json").stdout)
    return [_change(one) for one in reversed(found)]


def seen(balancer: Balancer) -> list[Change]:
    """The same, as its API returns it: waiting with a command takes a whole CPU to start it again and again."""
    return [_change(one) for one in balancer.others()]


def _change(found: dict[str, Any]) -> Change:
    return found["kind"], found["domain"], found["source"], found["destination"]


def test_what_an_administrator_does_is_recognised_and_its_hosts_rest(pool: Pools) -> None:
    group = pool(CALM)
    group.start(consecutive=3, strategy="default")
    group.wait_settled()
    assert others(group.balancer) == []
    here, there = (group.lab.host(name) for name in ("h1", "h2"))
    flags = ["--live", "--p2p", "--persistent", "--undefinesource"]
    subprocess.run(["virsh", "-q", "-c", here.uri, "migrate", *flags, "vm1", there.uri], check=True, timeout=60)
    status = group.wait("a sentence that says so", lambda now: "changed by others" in now["sentence"])
    assert status["sentence"].endswith("; changed by others: vm1 was migrated from h1 to h2")
    stopped = here.connection().lookupByName("vm2")
    stopped.destroy()
    group.wait("the stop", lambda _: ("stopped", "vm2", "h1", None) in seen(group.balancer))
    stopped.create()
    group.wait("the start", lambda _: ("started", "vm2", None, "h1") in seen(group.balancer))
    assert others(group.balancer) == [
        ("migrated", "vm1", "h1", "h2"),
        ("stopped", "vm2", "h1", None),
        ("started", "vm2", None, "h1"),
    ]
    assert group.balancer.history() == []
    assert (group.balancer.status() or {})["brake"] is None


def test_what_the_balancer_moves_is_its_own(pool: Pools) -> None:
    group = pool(CALM)
    group.start(strategy="default")
    group.wait_settled(steps=2)
    group.balancer.run("drain", "h1")
    group.wait_moves(2)
    group.wait_next_cycle(3)
    assert others(group.balancer) == []


def wants(group: Pool, balancer: Balancer, host: str) -> None:
    """Start a balancer whose rule wants vm1 on this host."""
    rule = {"name": "home", "kind": "only_on", "domains": ["vm1"], "hosts": [host]}
    policy = {
        "cpu": {"threshold": 0.9, "consecutive": 2},
        "rest_seconds": 0,
        "rules": [rule],
        "repair_rules": True,
    }
    balancer.configure(group.stack.url, interval_seconds=STEP, policy=policy)
    balancer.start()


def test_two_balancers_with_two_stores_both_stop_in_words(pool: Pools) -> None:
    group = pool(CALM)
    second = Balancer(group.lab, group.balancer.folder / "second", "127.0.0.1:19808", "second")
    wants(group, group.balancer, "h2")
    wants(group, second, "h1")
    statuses = [one.wait_for("brake", lambda now: now["brake"], 150) for one in (group.balancer, second)]
    for status in statuses:
        assert (status["mode"], status["brake"]["cause"]) == ("recommend", "others")
        assert "undid 2 of each other's moves (vm1 from" in status["brake"]["why"]
        assert status["sentence"].startswith("the brake is on: it and others undid")
    moves = [len([r for r in one.history() if r["result"] == "done"]) for one in (group.balancer, second)]
    assert sum(moves) <= 4
    assert len(places(group, "vm1")) == 1
    answer = second.run("release").stdout
    assert answer.startswith("The brake is released; it was on because it and others undid")
    second.wait_for("release", lambda now: now["brake"] is None and now["mode"] == "automatic")
