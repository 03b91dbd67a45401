"""A host whose libvirt is silent for a while in mid-migration: the balancer lives on, and its journal says what libvirt
says.
"""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from integration.pool import BUSY, Pool, Pools, places, wait_under_way
from virtpoise_lab import processes

pytestmark = [pytest.mark.lab, pytest.mark.second_lab]


def silence(group: Pool, host: str, seconds: float) -> list[tuple[int, int]]:
    """What the balancer held during a silence of this long of the host's libvirtd, read four times a second."""
    pid = group.lab.pid("libvirtd", host)
    readings = []
    processes.signal_pid(pid, signal.SIGSTOP)
    for _ in range(round(seconds * 4)):
        time.sleep(0.25)  # the silence itself is what is tried
        readings.append(held(group))
    processes.signal_pid(pid, signal.SIGCONT)
    return readings


def held(group: Pool) -> tuple[int, int]:
    """The balancer's threads and descriptors."""
    own = Path("/proc", str(group.balancer.process.pid))
    return len(list((own / "task").iterdir())), len(list((own / "fd").iterdir()))


# The balancer gives a silent daemon up after 25 s. It wakes right after that, in the middle of the migration, or after
# its end.
@pytest.mark.parametrize(("silent", "seconds", "bandwidth"), [("h1", 26, 2), ("h2", 33, 1), ("h1", 45, 2)])
def test_the_balancer_outlives_a_silence_and_journals_what_became_of_the_domain(
    pool: Pools, silent: str, seconds: float, bandwidth: int
) -> None:
    """QEMU goes on during the silence, and the daemon finishes the job afterwards.

    There is no end before that, and no other move.
    """
    group = pool(BUSY)
    group.start(migration={"bandwidth_mib_per_second": bandwidth, "timeout_seconds": 170})
    domain = wait_under_way(group)
    for name in BUSY["h1"]:
        group.lab.load(name, 1)  # so that no other migration follows
    threads, descriptors = held(group)
    readings = silence(group, silent, seconds)
    assert group.balancer.process.poll() is None
    # Each request of a look has two threads for a moment. What is caught by the silence is there between looks, too.
    since = readings[len(readings) // 2 :]
    assert min(reading[0] for reading in since) <= threads + 2, readings
    assert min(reading[1] for reading in since) <= descriptors + 8, readings
    group.wait("the end", lambda now: group.balancer.history()[0]["result"] is not None, 200)
    (first,) = group.balancer.history()
    where = {"h2": "running"} if first["result"] == "done" else {"h1": "running"}
    assert (first["domain"], places(group, domain)) == (domain, where)
    group.wait_next_cycle(5)
    assert [record["result"] for record in group.balancer.history()] == [first["result"]]
    assert places(group, domain) == where
