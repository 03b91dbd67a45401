"""The last looks before a migration, on real hosts: each obstacle ends the move with its reason, and nothing is
touched.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import libvirt
import pytest

from integration.lab_hosts import hosts_of
from integration.pool import Pools
from virtpoise_balancer.clock import SYSTEM
from virtpoise_balancer.execute.facts import Presence
from virtpoise_balancer.execute.libvirt_hosts import LibvirtHosts
from virtpoise_balancer.execute.migrate import Migrator
from virtpoise_balancer.execute.reconciler import Reconciler
from virtpoise_balancer.execute.workers import Workers
from virtpoise_balancer.model import (
    JournalEntry,
    MigrationOutcome,
    Move,
    PredictedLoads,
    Prediction,
    Progress,
    Result,
    Written,
)
from virtpoise_lab.lab import Lab
from virtpoise_lab.model import DomainSpec
from virtpoise_lab.processes import wait_until

pytestmark = [pytest.mark.lab, pytest.mark.second_lab]
LOADS = PredictedLoads(source=Prediction.exact(0.5), destination=Prediction.exact(0.5))


@pytest.fixture(scope="module")
def lab(pool: Pools) -> Iterator[Lab]:
    pool.close()  # one lab at a time
    with Lab.up(hosts=3, domains=[DomainSpec("vm1", "h1"), DomainSpec("vm2", "h3")]) as running:
        yield running


@pytest.fixture
def hosts(lab: Lab) -> Iterator[LibvirtHosts]:
    with Workers() as workers:
        yield hosts_of(lab, workers)


class Ends:
    """A journal of one migration."""

    outcome: MigrationOutcome | None = None

    def begin(self, migration_id: int) -> float:
        return time.time()

    def check_open(self, migration_id: int) -> None: ...

    def check_newest(self, migration_id: int) -> None: ...

    def end(self, migration_id: int, outcome: MigrationOutcome) -> Written:
        self.outcome = outcome
        return Written.ENDED

    def reopen(self, migration_id: int, why: str, *, doubled: bool) -> None: ...

    def note_volumes(self, migration_id: int, volumes: Sequence[str], *, created: bool = True) -> None: ...

    def check_volumes(self, migration_id: int) -> None: ...


def make(
    lab: Lab, hosts: LibvirtHosts, destination: str, seen: list[Progress] | None = None
) -> MigrationOutcome | None:
    uuid = lab.state.domain("vm1").uuid
    move = Move(domain="vm1", uuid=uuid, source="h1", destination=destination, predicted=LOADS)
    migrator = Migrator(hosts=hosts, timeout_seconds=60, stop_grace_seconds=5, bandwidth=lambda _at: 16)
    if why := migrator.obstacle(move):
        return MigrationOutcome(result=Result.SKIPPED, why=why)
    ends = Ends()
    reconciler = Reconciler(lambda: hosts, ends, lambda _move, _outcome: None, SYSTEM)
    entry = JournalEntry(id=1, move=move, began=ends.begin(1))
    reconciler.requested(entry, migrator.request(move, (seen if seen is not None else []).append, threading.Event()))
    wait_until(lambda: isinstance(reconciler.settle(entry), MigrationOutcome), 20, "the end of the migration")
    return ends.outcome


def vm1(lab: Lab, host: str) -> Any:
    return lab.host(host).connection().lookupByUUIDString(lab.state.domain("vm1").uuid)


def whole(lab: Lab, hosts: LibvirtHosts) -> bool:
    """Whether the domain runs on h1 and is on no other host."""
    uuid = lab.state.domain("vm1").uuid
    return [hosts.presence(name, uuid) for name in ("h1", "h2", "h3")] == [
        Presence.RUNNING,
        Presence.ABSENT,
        Presence.ABSENT,
    ]


def test_a_domain_that_is_not_running_at_its_source_stays(lab: Lab, hosts: LibvirtHosts) -> None:
    vm1(lab, "h1").suspend()
    try:
        outcome = make(lab, hosts, "h2")
        assert outcome == MigrationOutcome(result=Result.SKIPPED, why="vm1 is paused on h1, no longer running there")
    finally:
        vm1(lab, "h1").resume()
    assert whole(lab, hosts)


@pytest.mark.parametrize(("flags", "stands"), [(libvirt.VIR_DOMAIN_START_PAUSED, "paused"), (0, "running")])
def test_a_domain_that_its_destination_has_already_stays(
    lab: Lab, hosts: LibvirtHosts, flags: int, stands: str
) -> None:
    twin = lab.host("h2").connection().createXML(vm1(lab, "h1").XMLDesc(), flags)
    try:
        assert make(lab, hosts, "h2") == MigrationOutcome(result=Result.SKIPPED, why=f"vm1 is already {stands} on h2")
    finally:
        twin.destroy()
    assert whole(lab, hosts)


def test_a_domain_with_another_job_under_way_stays(lab: Lab, hosts: LibvirtHosts) -> None:
    uuid = lab.state.domain("vm1").uuid
    with hosts.migration(uuid, "h1", "h3", 1) as other:
        wait_until(lambda: hosts.progress("h1", uuid) is not None, 20, "the other job")
        assert make(lab, hosts, "h2") == MigrationOutcome(
            result=Result.SKIPPED, why="vm1 is being worked on by another job"
        )
        hosts.abort("h1", uuid)
        assert other.ended(30)
        assert other.error is not None
        assert "abort" in other.error or "cancel" in other.error
    wait_until(lambda: whole(lab, hosts), 20, "the domain at home")


def test_a_migration_of_others_to_the_destination_holds_a_move_back(lab: Lab, hosts: LibvirtHosts) -> None:
    theirs = lab.state.domain("vm2").uuid
    with hosts.migration(theirs, "h3", "h2", 1) as other:
        wait_until(lambda: hosts.between_hosts("h2") == ((theirs, "vm2"),), 20, "the other domain on its way")
        assert hosts.between_hosts("h3") == ()
        assert make(lab, hosts, "h2") == MigrationOutcome(
            result=Result.SKIPPED, why="h2 takes part in a migration of vm2 that this balancer did not begin"
        )
        hosts.abort("h3", theirs)
        assert other.ended(30)
    wait_until(lambda: hosts.between_hosts("h2") == (), 20, "its end")
    assert whole(lab, hosts)


def test_with_nothing_in_the_way_it_moves_and_libvirts_figures_are_told(lab: Lab, hosts: LibvirtHosts) -> None:
    seen: list[Progress] = []
    began = time.monotonic()
    outcome = make(lab, hosts, "h2", seen)
    assert outcome is not None
    assert (outcome.result, outcome.why) == (Result.DONE, "")
    assert 0 < (outcome.seconds or 0) <= time.monotonic() - began
    assert 0 < (outcome.downtime_seconds or 0) < 5
    assert (outcome.transferred_bytes or 0) > 2**20
    assert any(progress.processed_bytes for progress in seen)
    uuid = lab.state.domain("vm1").uuid
    assert hosts.presence("h2", uuid) is Presence.RUNNING
    assert hosts.presence("h1", uuid) is Presence.ABSENT
    assert hosts.progress("h1", uuid) is None
    assert hosts.progress("h2", uuid) is None


def test_the_doctors_questions_are_answered_by_real_hosts(lab: Lab, hosts: LibvirtHosts) -> None:
    here = lab.where("vm1")
    assert here is not None
    other = "h3"
    facts = hosts.facts(here)
    assert [domain.name for domain in facts.domains] == ["vm1"]
    assert facts.cpu is not None
    assert hosts.runs_cpu(other, facts.cpu) in (True, None)
    assert hosts.reaches(here, other) is None
    assert hosts.unseen(other, ["/nowhere"]) == ("/nowhere",)
    assert lab.where("vm1") == here
