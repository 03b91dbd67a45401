"""A host whose libvirt is silent, on real hosts: no destination, never taken for empty, and back when it answers."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from integration.pool import CALM, Pool, Pools
from virtpoise_lab import processes

pytestmark = [pytest.mark.lab, pytest.mark.second_lab]


@contextmanager
def stopped_libvirtd(group: Pool, host: str) -> Iterator[None]:
    """The host's libvirtd takes connections and answers nothing; afterwards it goes on."""
    pid = group.lab.pid("libvirtd", host)
    processes.signal_pid(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        processes.signal_pid(pid, signal.SIGCONT)


def of(status: dict[str, object], name: str) -> dict[str, object]:
    hosts: list[dict[str, object]] = status["hosts"]  # type: ignore[assignment]
    return next(host for host in hosts if host["name"] == name)


def test_the_emptiest_host_with_a_silent_libvirt_takes_nothing_and_costs_nobody_a_penalty(pool: Pools) -> None:
    group = pool({"h1": {"vm1": 20, "vm2": 20}, "h2": {}, "h3": {"vm3": 10}})
    group.start(libvirt={"connect_timeout_seconds": 3})
    group.wait_settled(steps=2)
    with stopped_libvirtd(group, "h2"):
        group.lab.load("vm1", 48)
        # A scrape that the silent libvirt holds up may come too late at first.
        group.wait("h2 unknown", lambda now: "libvirt does not answer" in str(of(now, "h2")["why_unknown"]))
        moves = group.wait_moves(1)
        assert [(source, destination) for _, source, destination in moves] == [("h1", "h3")]
        assert len([record for record in group.balancer.history() if record["destination"] == "h2"]) <= 1
        assert group.balancer.host("h1")["failures"] == 0
        assert of(group.balancer.status() or {}, "h2")["state"] == "unknown"
    group.wait("h2 known again", lambda now: of(now, "h2")["state"] == "active")


def test_a_drain_ends_when_libvirt_itself_lists_nothing_and_not_while_it_is_silent(pool: Pools) -> None:
    group = pool(CALM)
    group.start(libvirt={"connect_timeout_seconds": 3})
    group.wait_settled(steps=2)
    assert group.balancer.run("pause").returncode == 0
    drain = subprocess.Popen(
        group.balancer._command("drain", "h1", "--wait"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        group.wait("the drain", lambda now: of(now, "h1")["draining"] and of(now, "h1")["active_domains"] == 2)
        with stopped_libvirtd(group, "h1"):
            group.wait("h1 unknown", lambda now: of(now, "h1")["state"] == "unknown" and not of(now, "h1")["domains"])
            time.sleep(5 * 2)  # five looks of the command
            assert drain.poll() is None, drain.communicate()
        group.wait("h1 draining", lambda now: of(now, "h1")["state"] == "draining")
        assert group.balancer.run("resume").returncode == 0
        out, err = drain.communicate(timeout=90)
    finally:
        drain.kill()
    assert (drain.returncode, out.splitlines()[-1]) == (0, "h1 is empty.")
    assert "waits: paused by" in err
    assert "libvirt" in err
    assert group.lab.host("h1").connection().numOfDomains() == 0
    assert group.lab.host("h2").connection().numOfDomains() == 2
