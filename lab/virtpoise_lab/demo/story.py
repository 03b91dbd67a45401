"""What happens in the demo: a host gets too busy, and the balancer does something about it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import requests

from virtpoise_lab.balancer import Balancer
from virtpoise_lab.demo.screen import View, result_table
from virtpoise_lab.errors import LabError
from virtpoise_lab.lab import Lab
from virtpoise_lab.model import DomainSpec
from virtpoise_lab.stack import Stack

THRESHOLD = 0.6
CONSECUTIVE = 3
INTERVAL_SECONDS = 4
SCRAPE_SECONDS = 2
# The longest that a migration may take to start, from the scrape that made N: a look at most an interval later, and 2 s
# to act.
BOUND_SECONDS = INTERVAL_SECONDS + 2
# h1 begins at about 48 %; when vm1 gets busy it is at about 70 %.
DOMAINS = (
    ("vm1", "h1", 10),
    ("vm2", "h1", 20),
    ("vm3", "h1", 10),
    ("vm4", "h1", 5),
    ("vm5", "h2", 15),
    ("vm6", "h2", 10),
)
BUSY = ("vm1", 30)
# What the balancer averages a domain's figures over: N readings and one and a half scrapes.
WINDOW_SECONDS = CONSECUTIVE * INTERVAL_SECONDS + 1.5 * SCRAPE_SECONDS


def run(view: View, *, keep: bool) -> int:
    """Tell the whole story; 0 when both hosts end below the threshold and every prediction was measured."""
    view.say("starting two libvirt hosts with three to four QEMU domains each")
    lab = Lab.up(
        hosts=2,
        domains=[DomainSpec(name, host) for name, host, _ in DOMAINS],
        say=view.say,
    )
    done = False
    try:
        stack = Stack.start(lab, scrape_seconds=SCRAPE_SECONDS, balancer=True)
        view.say(f"an exporter on each host, and Prometheus at {stack.url}")
        # Only now, since work that piles up while the guests boot would be caught up on for a while.
        for name, _, load in DOMAINS:
            lab.load(name, load, kind="work")
        steady = time.time() + WINDOW_SECONDS
        balancer = Balancer(lab)
        balancer.configure(
            stack.url,
            prometheus={"scrape_interval_seconds": SCRAPE_SECONDS},
            interval_seconds=INTERVAL_SECONDS,
            policy={"strategy": "default", "cpu": {"threshold": THRESHOLD, "consecutive": CONSECUTIVE}},
            measurement={"settle_seconds": 8, "window_seconds": 24},
        )
        balancer.start()
        view.say(f"the balancer runs: {THRESHOLD:.0%} is too much in {CONSECUTIVE} consecutive samples")
        ended = _play(view, lab, stack, balancer, steady)
        if keep:
            done = True
            _print_addresses(view, stack, balancer)
        return 0 if ended else 1
    finally:
        if not done:
            lab.down()


def _play(view: View, lab: Lab, stack: Stack, balancer: Balancer, steady: float) -> bool:
    """Play the demo.

    Returns whether it went as it should. ``steady``: from when on (Unix seconds) what the balancer sees has nothing of
    the guests' boot in it.
    """
    _watch(
        view,
        balancer,
        "a first reading of both hosts",
        lambda status: len(_loads(status)) == 2 and status["cycle_at"] >= steady,
    )
    name, load = BUSY
    lab.load(name, load)
    view.say(f"{name} gets busy: {load} % of a CPU from now on")
    _watch(view, balancer, "a migration", lambda _: _begun(balancer))
    seconds = reaction(stack.url, _begun(balancer)[0])
    told = "not known, Prometheus has no such scrape" if seconds is None else f"{seconds:.1f} s"
    view.say(
        f"from the scrape that made {CONSECUTIVE} to the start of the migration: {told}"
        f" (bound: an interval and 2 s, {BOUND_SECONDS:.1f} s)"
    )
    _watch(view, balancer, "the end of the migration", lambda _: all(r["result"] for r in balancer.history()))
    view.say("the migration has ended; measuring what it left, while the loads stay as they are")
    _watch(view, balancer, "a verdict on each prediction", lambda _: _judged(balancer))
    records = balancer.history()
    loads = _loads(balancer.status() or {"hosts": []})
    missing = shortcomings(loads, records)
    view.finish(result_table(records), missing or [f"Both hosts are below {THRESHOLD:.0%}: {_told(loads)}."])
    return not missing


def shortcomings(loads: Mapping[str, float], records: Sequence[Mapping[str, Any]]) -> list[str]:
    """What is missing from what the demo promises: both hosts below the threshold, and every prediction measured."""
    found = []
    if len(loads) != 2 or any(load >= THRESHOLD for load in loads.values()):
        found.append(f"Not solved: {_told(loads) or 'no host has a load'}.")
    for record in records:
        move = f"{record['domain']} from {record['source']} to {record['destination']}"
        if record["result"] != "done":
            found.append(f"Not moved: {move}: {record['why'] or record['result']}.")
            continue
        found += [
            f"Not measured: what was predicted of {end['host']} when moving {move}: {end['verdict'] or 'no verdict'}."
            for end in record["predictions"]
            if end["verdict"] != "measured"
        ]
    return found


def _told(loads: Mapping[str, float]) -> str:
    return ", ".join(f"{name} at {load:.0%}" for name, load in loads.items())


def _watch(view: View, balancer: Balancer, what: str, reached: Any, seconds: float = 90) -> None:
    """Show the balancer's status until it is as wanted."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        status = balancer.wait_for("answer", lambda _status: True)
        view.show(status)
        if reached(status):
            return
        time.sleep(0.25)
    raise LabError(f"no {what} within {seconds:g} s; the balancer's last words:\n{balancer.last_words()}")


def _loads(status: Any) -> dict[str, float]:
    return {host["name"]: host["cpu_ratio"] for host in status["hosts"] if host["cpu_ratio"] is not None}


def _begun(balancer: Balancer) -> list[dict[str, Any]]:
    return [record for record in balancer.history() if record["began"]]


def _judged(balancer: Balancer) -> bool:
    return all(end["verdict"] for record in balancer.history() for end in record["predictions"])


def reaction(prometheus: str, record: Mapping[str, Any]) -> float | None:
    """Seconds from the scrape that made N to the migration's start: from the first scrape that only the deciding look
    could see.

    That look is the one at which the predictions were made, however late the start; None where Prometheus has no such
    scrape.
    """
    looked = record["predictions"][0]["made"] // INTERVAL_SECONDS * INTERVAL_SECONDS
    since_last_look = f'virtpoise_host_cpus{{instance=~"h1:.*"}}[{INTERVAL_SECONDS}s]'
    query = {"query": since_last_look, "time": str(looked)}
    found = requests.post(f"{prometheus}/api/v1/query", data=query, timeout=5).json()["data"]["result"]
    return float(record["began"] - found[0]["values"][0][0]) if found else None


def _print_addresses(view: View, stack: Stack, balancer: Balancer) -> None:
    for text in (
        f"Prometheus: {stack.url}",
        f"balancer: http://{balancer.address}/metrics and /api/v1/status",
        f"its configuration, for commands: export VIRTPOISE_CONFIG={balancer.config}",
        "change a load: .venv/bin/python -m virtpoise_lab load vm1 70",
        "end it all: .venv/bin/python -m virtpoise_lab down",
    ):
        view.say(text)
