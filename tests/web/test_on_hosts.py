"""Steering a balancer on real hosts: examine, look at a recommendation, apply it, pause, resume."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from virtpoise_lab import requirements
from virtpoise_lab.balancer import Balancer
from virtpoise_lab.lab import Lab
from virtpoise_lab.model import DomainSpec, Load
from virtpoise_lab.stack import Stack

pytestmark = pytest.mark.lab

LOADS = {"h1": {"vm1": 10, "vm2": 25, "vm3": 20}, "h2": {"vm4": 3}}


@pytest.fixture
def group() -> Iterator[tuple[Lab, Stack, Balancer]]:
    missing = requirements.missing()
    if missing:
        pytest.skip(missing)
    specs = [
        DomainSpec(name, host, Load(cpu=load, kind="work"))
        for host, here in LOADS.items()
        for name, load in here.items()
    ]
    lab = Lab.up(hosts=2, domains=specs, spare=0.2)
    try:
        stack = Stack.start(lab, port=19090)
        balancer = Balancer(lab)
        policy = {"cpu": {"threshold": 0.6, "consecutive": 2}, "penalty": {"initial_seconds": 5}}
        balancer.configure(stack.url, mode="recommend", policy=policy)
        balancer.start()
        yield lab, stack, balancer
    finally:
        lab.down()


def answered(balancer: Balancer, *arguments: str) -> Any:
    """A command's JSON."""
    return json.loads(balancer.run(*arguments, "--output", "json").stdout)


def test_a_recommendation_is_applied_by_hand_and_a_pause_outlives_a_restart(group: tuple[Lab, Stack, Balancer]) -> None:
    lab, stack, balancer = group
    examined = balancer.run("doctor")
    assert examined.returncode == 0, examined.stdout
    assert "✓ h1 → h2: reached" in examined.stdout
    assert "✓ h2 → h1: reached" in examined.stdout
    assert [host["domains"] for host in (balancer.status() or {})["hosts"]] == [["vm1", "vm2", "vm3"], ["vm4"]]

    lab.load("vm1", 35)
    balancer.wait_for("recommendation", lambda status: status["result"] == "recommended")
    assert balancer.history() == []
    applied = balancer.run("apply", "--yes", "--wait")
    # A scrape that comes late ends the count: then the next recommendation is used.
    if "out of date" in applied.stderr:
        assert (applied.returncode, balancer.history()) == (1, [])
        seen = (balancer.status() or {})["cycle_at"]
        balancer.wait_for("another one", lambda now: now["cycle_at"] > seen and now["result"] == "recommended")
        applied = balancer.run("apply", "--yes", "--wait")
    assert applied.returncode == 0, applied.stderr
    assert "Begun: " in applied.stdout
    (record,) = balancer.history()
    assert (record["result"], record["source"], record["destination"]) == ("done", "h1", "h2")
    # The newest is the first; one that came too late stands behind it.
    order, *_ = answered(balancer, "history", "--orders")
    assert order["who"] == "root" or order["who"].endswith(" (as root)")  # over the socket, which needs no token
    assert (order["action"], order["accepted"]) == ("apply", True)

    assert balancer.run("pause").returncode == 0
    assert balancer.run("mode", "automatic").returncode == 0
    assert balancer.stop() == 0
    balancer.start()
    status = balancer.wait_for("paused cycle", lambda status: "paused by" in status["sentence"])
    assert (status["mode"], status["paused"] is not None) == ("automatic", True)
    # Now the other host is overloaded, this one has room, and the balancer may not act.
    for name in {"vm1", "vm2", "vm3"} - {record["domain"]}:
        lab.load(name, 5)
    calm = balancer.wait_for("room on h1", lambda status: status["hosts"][0]["cpu_ratio"] < 0.3)["cycle_at"]
    balancer.wait_for("all readings of it", lambda status: status["cycle_at"] > calm + 2)
    # Two equal ones: whichever has moved and rests, the other one fits on h1.
    lab.load(record["domain"], 33)
    lab.load("vm4", 33)
    balancer.wait_for("plan that waits", lambda status: status["result"] == "recommended")
    refused = balancer.run("apply", "--yes")
    assert refused.returncode == 1
    assert "paused by" in refused.stderr
    assert len(balancer.history()) == 1
    assert balancer.run("resume").returncode == 0
    balancer.wait_for("migration", lambda _: len(balancer.history()) > 1)

    stack.stop_exporter("h2")
    balancer.wait_for("unknown host", lambda status: any(host["state"] == "unknown" for host in status["hosts"]))
    examined = balancer.run("doctor")
    assert examined.returncode == 1
    assert "✗ exporter of h2: no fresh figures" in examined.stdout
