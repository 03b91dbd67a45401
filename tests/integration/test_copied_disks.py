"""On real hosts that share no storage: disks are copied along, and what is there already is never written to."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import libvirt
import pytest

from builders import domain, group, host
from integration.lab_hosts import hosts_of
from integration.local_disks import DISK, POOL, create_image
from integration.pool import Pools
from integration.test_only_possible_moves_on_hosts import described, start
from virtpoise_balancer.analyse.facts import with_facts
from virtpoise_balancer.errors import LibvirtError
from virtpoise_balancer.execute.inventory import Inventory
from virtpoise_balancer.execute.libvirt_hosts import LibvirtHosts
from virtpoise_balancer.execute.migrate import Migrator
from virtpoise_balancer.execute.workers import Workers
from virtpoise_balancer.model import Move, Policy, Progress, Snapshot, Trigger
from virtpoise_balancer.plan import plan
from virtpoise_lab.lab import Lab
from virtpoise_lab.model import DomainSpec

pytestmark = pytest.mark.lab
NAMES = ("h1", "h2", "h3")
POLICY = Policy(cpu=Trigger(threshold=0.7, consecutive=2))
MIB = 2**20


@dataclass
class Hosts:
    lab: Lab
    hosts: LibvirtHosts
    inventory: Inventory

    def migrator(self, bandwidth: int | None = None) -> Migrator:
        return Migrator(hosts=self.hosts, timeout_seconds=120, stop_grace_seconds=0, bandwidth=lambda _at: bandwidth)

    def connection(self, name: str) -> Any:
        return self.lab.host(name).connection()

    def runs_on(self, guest: str) -> list[str]:
        found = []
        for name in NAMES:
            with suppress(libvirt.libvirtError):
                if self.connection(name).lookupByName(guest).state()[0] == libvirt.VIR_DOMAIN_RUNNING:
                    found.append(name)
        return found

    def sum_of(self, name: str, guest: str) -> str:
        command = ["sha256sum", f"/run/images/{guest}.img"]
        return str(self.lab.host(name).run(command, stdout=subprocess.PIPE, text=True).stdout).split()[0]

    def has(self, name: str, guest: str) -> bool:
        found = self.lab.host(name).run(["test", "-e", f"/run/images/{guest}.img"], check=False)
        return found.returncode == 0

    def seen(self, guest: str) -> Snapshot:
        """The group as Prometheus would have it with h1 overloaded by one domain, with what libvirt says."""
        for name in NAMES:
            self.inventory.look(name)
        uuid = self.connection("h1").lookupByName(guest).UUIDString()
        loads = {"h1": 0.9, "h2": 0.1, "h3": 0.2}
        members = [host(name, load, load) for name, load in loads.items()]
        snapshot = group(*members, domain(guest, "h1", 3.0, uuid=uuid))
        return with_facts(snapshot, self.inventory.facts(NAMES))

    def planned(self, guest: str) -> Move:
        (move,) = plan(self.seen(guest), POLICY).moves
        return move


@pytest.fixture(scope="module")
def scene(pool: Pools) -> Iterator[Hosts]:
    pool.close()  # one lab at a time
    with Lab.up(hosts=3, domains=[DomainSpec("vm1", "h1")]) as lab, Workers() as workers:
        for name in ("h1", "h2"):
            lab.host(name).run(["mkdir", "/run/images"])
            lab.host(name).connection().storagePoolCreateXML(POOL)
        like = described(lab)
        for guest in ("moved", "aborted", "taken"):
            create_image(lab, "h1", guest, 16)
            start(lab, like, guest, DISK.format(guest))
        hosts = hosts_of(lab, workers, copies=True)
        yield Hosts(lab, hosts, Inventory(lambda: hosts))


def test_without_leave_to_copy_its_storage_holds_the_domain(scene: Hosts) -> None:
    hosts = replace(scene.hosts, copies=False)
    refused = replace(scene, inventory=Inventory(lambda: hosts))
    found = plan(refused.seen("moved"), POLICY)
    assert (found.moves, found.solved) == ((), False)
    assert "without shared storage" in str(next(one for one in found.refusals if one.domain == "moved").detail["why"])


def test_a_domain_is_copied_with_its_disk_to_the_host_that_has_a_place_for_it(scene: Hosts) -> None:
    move = scene.planned("moved")
    assert (move.destination, [one.device for one in move.copies]) == ("h2", ["vda"]), "h3 has no storage pool there"
    assert 16 * MIB <= move.copies[0].stored_bytes < 20 * MIB
    seen: list[Progress] = []
    requested = scene.migrator().request(move, seen.append, threading.Event())
    assert requested.why is None
    assert scene.runs_on("moved") == ["h2"]
    assert scene.sum_of("h2", "moved") == scene.sum_of("h1", "moved")
    # It cannot go back: its old image is still there, and is not written to.
    with pytest.raises(LibvirtError, match="exist"):
        scene.hosts.make_room("h1", move.copies)


def test_an_aborted_copy_leaves_the_domain_where_it_is_and_its_volume_is_deleted(scene: Hosts) -> None:
    move, migrator, stop = scene.planned("aborted"), scene.migrator(bandwidth=1), threading.Event()
    half = threading.Event()

    def watch(progress: Progress) -> None:
        if (progress.disk_bytes or 0) > 0 and (progress.processed_bytes or 0) > 0:
            half.set()
            stop.set()

    requested = migrator.request(move, watch, stop)
    assert half.is_set()
    assert (requested.why, requested.made_room) == ("aborted: the balancer was stopping", ("/run/images/aborted.img",))
    assert scene.runs_on("aborted") == ["h1"]
    assert scene.has("h2", "aborted"), "libvirt leaves what it has copied"
    scene.hosts.discard("h2", move.uuid, requested.made_room, time.time() + 60)
    assert not scene.has("h2", "aborted")
    again = scene.planned("aborted")
    assert scene.migrator().request(again, lambda _: None, threading.Event()).why is None
    assert scene.runs_on("aborted") == ["h2"]
    with pytest.raises(LibvirtError, match="is active here"):
        scene.hosts.discard("h2", move.uuid, requested.made_room)
    assert scene.has("h2", "aborted"), "a domain that is active has it"


def test_where_something_is_already_nothing_is_copied(scene: Hosts) -> None:
    """What is there may be the disk of a domain that is shut off. libvirt itself would copy over it."""
    move = scene.planned("taken")
    scene.lab.host("h2").run(["sh", "-c", "echo precious > /run/images/taken.img"])
    requested = scene.migrator().request(move, lambda _: None, threading.Event())
    assert requested.why is not None
    assert requested.why.startswith("no room for a copy of its disks: ")
    scene.inventory.ask([move], skip=(), acts=True)
    facts = scene.inventory.facts(NAMES)
    assert facts.forbid(move.uuid, "h2", move.copies), "the next plan knows it"
    assert plan(scene.seen("taken"), POLICY).moves == ()
    assert scene.runs_on("taken") == ["h1"]
    text = scene.lab.host("h2").run(["cat", "/run/images/taken.img"], stdout=subprocess.PIPE, text=True).stdout
    assert text == "precious\n"


def test_without_room_nothing_is_copied(scene: Hosts) -> None:
    (disk,) = scene.inventory.facts(NAMES).copies[scene.connection("h1").lookupByName("taken").UUIDString()]
    huge = replace(disk, path="/run/images/huge.img", capacity_bytes=2**50)
    small = replace(disk, path="/run/images/small.img")
    with pytest.raises(LibvirtError, match="bytes free"):
        scene.hosts.make_room("h2", [small, huge])
    assert not scene.has("h2", "small"), "all or none"
    with pytest.raises(LibvirtError, match="no storage pool is at /run/images"):
        scene.hosts.make_room("h3", [small])
