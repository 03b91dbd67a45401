"""What hosts report is read beside the cycles: once, again after a while, and when something has come to them."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import NoReturn, cast

import pytest
import structlog
from structlog.testing import capture_logs

from builders import FakeClock
from virtpoise_balancer.errors import LibvirtError, StoreError
from virtpoise_balancer.execute import inventory as inventory_module
from virtpoise_balancer.execute.facts import Bound, CopyableDisk, Hardware, HardwareVerdict, HostFacts, Needs
from virtpoise_balancer.execute.hosts import Hosts
from virtpoise_balancer.execute.inventory import Inventory, facts_of
from virtpoise_balancer.knowledge.store import Store
from virtpoise_balancer.model import Facts, Hold, Holder, Move, Need, PredictedLoads, Prediction, Requirement
from virtpoise_balancer.threads import SystemThreads, Thread

PC = Hardware(type="kvm", arch="x86_64", machine="pc", emulator="/q", cpu="<cpu><model>EPYC</model></cpu>")
OLD = replace(PC, cpu="<cpu><model>Nehalem</model></cpu>")
PROD = Requirement(kind=Need.NETWORK, name="network prod")


def facts(*domains: Needs, networks: tuple[str, ...] = ("prod",), cpu: str | None = "<cpu/>") -> HostFacts:
    return HostFacts(
        libvirt_version=9, hypervisor_version=7, cpu=cpu, devices=None, networks=frozenset(networks), domains=domains
    )


def guest(uuid: str, hardware: Hardware | None = None) -> Needs:
    return Needs(name=uuid, uuid=uuid, networks=("prod",), hardware=hardware)


@dataclass
class Said:
    """In the place of the hosts' daemons. ``asked``: what they were asked about hardware."""

    facts_of: dict[str, HostFacts]
    refused: set[str] = field(default_factory=set)
    looked: list[str] = field(default_factory=list)
    asked: list[tuple[str, str]] = field(default_factory=list)
    lacking: set[tuple[str, str]] = field(default_factory=set)  # host and CPU
    bound: dict[str, Bound] = field(default_factory=dict)
    wordless: set[str] = field(default_factory=set)  # libvirt reports nothing of these domains
    leaves: list[str] = field(default_factory=list)  # domains that were asked about
    absent: set[tuple[str, str]] = field(default_factory=set)  # host and image
    unpooled: set[str] = field(default_factory=set)  # images in no pool's folder
    sought: list[tuple[str, str]] = field(default_factory=list)

    def facts(self, host: str) -> HostFacts:
        self.looked.append(host)
        if host in self.refused:
            raise LibvirtError("no")
        return self.facts_of[host]

    def leaving(
        self, _host: str, uuids: Sequence[str], _copyable: Mapping[str, Sequence[str]]
    ) -> dict[str, Bound | None]:
        self.leaves += uuids
        return {uuid: self.bound.get(uuid) for uuid in uuids if uuid not in self.wordless}

    def present(self, host: str, images: Sequence[str]) -> dict[str, bool]:
        self.sought += [(host, image) for image in images]
        return {image: (host, image) not in self.absent for image in images if image not in self.unpooled}

    def verdicts(self, host: str, kinds: Sequence[Hardware]) -> tuple[HardwareVerdict, ...]:
        self.asked += [(host, str(kind.cpu)) for kind in kinds]
        return tuple(HardwareVerdict(machine=True, cpu=(host, kind.cpu) not in self.lacking) for kind in kinds)


class AtOnce(SystemThreads):
    """Does the work before it returns."""

    def start(self, work: Callable[[], object], name: str, *, daemon: bool = True) -> Thread:
        work()
        return cast(Thread, None)


@dataclass
class Scene:
    said: Said
    clock: FakeClock = field(default_factory=FakeClock)
    documents: dict[str, str] = field(default_factory=dict)
    written: int = 0

    def __post_init__(self) -> None:
        self.inventory = self.restarted()

    def restarted(self) -> Inventory:
        return Inventory(
            lambda: cast(Hosts, self.said),
            remember=self._remember,
            recall=lambda: self.documents,
            clock=self.clock,
            threads=AtOnce(),
        )

    def _remember(self, host: str, document: str) -> None:
        self.written += 1
        self.documents[host] = document

    def keep_up(self, **running: tuple[str, ...]) -> list[str]:
        """The hosts that were looked at."""
        self.said.looked.clear()
        self.inventory.keep_up(running)
        return self.said.looked


def test_a_look_says_what_stands_against_migrations() -> None:
    scene = Scene(Said({"h1": facts(guest("a")), "h2": facts(networks=())}))
    assert scene.inventory.facts(("h1", "h2")).lacks == {}
    assert scene.keep_up(h1=("a",), h2=()) == ["h1", "h2"]
    found = scene.inventory.facts(("h1", "h2"))
    assert (found.lacks, found.requires) == ({"h2": (PROD,)}, {"a": (PROD,)})


def test_a_host_is_looked_at_again_after_an_hour_or_when_a_domain_has_come() -> None:
    scene = Scene(Said({"h1": facts(guest("a"))}))
    assert scene.keep_up(h1=("a",)) == ["h1"]
    scene.clock.at += 600
    assert scene.keep_up(h1=("a",)) == []
    scene.said.facts_of["h1"] = facts(guest("a"), guest("b"))
    assert scene.keep_up(h1=("a", "b")) == ["h1"]
    assert scene.keep_up(h1=("a", "b", "c")) == [], "it was looked at just now"
    scene.clock.at += 3600
    assert scene.keep_up(h1=("a", "b")) == ["h1"]


def test_a_host_that_lacked_what_a_plan_needs_is_looked_at_again_sooner_until_the_plan_needs_it_no_more() -> None:
    scene = Scene(Said({"h1": facts(guest("a")), "h2": facts(networks=())}))
    scene.keep_up(h1=("a",), h2=())
    assert scene.inventory.facts(("h1", "h2")).lacking_what_may_come() == ("h2",)
    scene.inventory.look_soon(("h2",))
    assert scene.keep_up(h1=("a",), h2=()) == [], "it was looked at just now"
    scene.clock.at += 120
    scene.said.facts_of["h2"] = facts()
    assert scene.keep_up(h1=("a",), h2=()) == ["h2"]
    assert scene.inventory.facts(("h1", "h2")).lacking_what_may_come() == ()
    scene.clock.at += 120
    scene.inventory.look_soon(())
    assert scene.keep_up(h1=("a",), h2=()) == []


def test_all_are_looked_at_again_when_someone_has_mended_something() -> None:
    scene = Scene(Said({"h1": facts(guest("a"))}, refused={"h2"}))
    scene.keep_up(h1=("a",), h2=())
    assert scene.keep_up(h1=("a",), h2=()) == []
    scene.inventory.doubt()
    assert scene.keep_up(h1=("a",), h2=()) == ["h1", "h2"]


def test_a_host_that_does_not_answer_is_left_alone_for_a_while() -> None:
    scene = Scene(Said({}, refused={"h1"}))
    assert scene.keep_up(h1=()) == ["h1"]
    assert scene.keep_up(h1=()) == []
    scene.clock.at += 300
    assert scene.keep_up(h1=()) == ["h1"]


def test_each_kind_of_hardware_is_asked_about_once_at_each_host() -> None:
    said = Said(
        {"h1": facts(guest("a", PC), guest("b", PC)), "h2": facts(guest("c", OLD))}, lacking={("h2", PC.cpu or "")}
    )
    scene = Scene(said)
    scene.keep_up(h1=("a", "b"), h2=("c",))
    scene.clock.at += 60
    scene.keep_up(h1=("a", "b"), h2=("c",))
    every = [(host, kind.cpu) for host in ("h1", "h2") for kind in (PC, OLD)]
    assert sorted(said.asked) == sorted(every)
    (lack,) = scene.inventory.facts(("h1", "h2")).lacks["h2"]
    assert (lack.kind, lack.name.startswith("CPU EPYC")) == (Need.CPU, True)
    said.asked.clear()
    scene.clock.at += 3600
    scene.keep_up(h1=("a", "b"), h2=("c",))
    assert said.asked == []


def test_a_host_that_was_upgraded_is_asked_anew() -> None:
    said = Said({"h1": facts(guest("a", PC))}, lacking={("h1", PC.cpu or "")})
    scene = Scene(said)
    scene.keep_up(h1=("a",))
    said.facts_of["h1"], said.lacking = facts(guest("a", PC), cpu="<cpu><microcode version='2'/></cpu>"), set()
    scene.clock.at += 3600
    scene.keep_up(h1=("a",))
    assert said.asked == [("h1", PC.cpu), ("h1", PC.cpu)]


def test_what_was_said_outlives_the_process_and_is_written_only_when_it_changes() -> None:
    scene = Scene(Said({"h1": facts(guest("a", PC)), "h2": facts(networks=())}))
    scene.keep_up(h1=("a",), h2=())
    scene.clock.at += 60
    scene.keep_up(h1=("a",), h2=())  # h2 is asked about what was found on h1, if it was not
    written = scene.written
    before = scene.inventory.facts(("h1", "h2"))
    scene.inventory = scene.restarted()
    assert scene.inventory.facts(("h1", "h2")) == before == facts_of(scene.documents)
    assert scene.keep_up(h1=("a",), h2=()) == []
    scene.clock.at += 3600
    assert scene.keep_up(h1=("a",), h2=()) == ["h1", "h2"]
    assert scene.written == written


def test_what_is_of_another_version_is_looked_at_again() -> None:
    scene = Scene(Said({"h1": facts(guest("a"))}), documents={"h1": json.dumps({"at": 1.0, "new": 2}), "h2": "{"})
    assert scene.inventory.facts(("h1", "h2")).lacks == {}
    assert scene.keep_up(h1=("a",)) == ["h1"]


def test_a_host_that_has_left_the_group_counts_no_more() -> None:
    scene = Scene(Said({"h1": facts(guest("a")), "h2": facts(networks=())}))
    scene.keep_up(h1=("a",), h2=())
    assert scene.inventory.facts(("h1",)).lacks == {}


def test_a_store_that_cannot_be_written_or_read_stops_nothing() -> None:
    def fails(*_: object) -> NoReturn:
        raise StoreError("disk full")

    scene = Scene(Said({"h1": facts(guest("a")), "h2": facts(networks=())}))
    scene.inventory.remember, scene.inventory.recall = fails, fails
    scene.keep_up(h1=("a",), h2=())
    assert scene.inventory.facts(("h1", "h2")).lacks == {"h2": (PROD,)}


UNSAFE = Bound(kind="storage", why="Migration without shared storage is unsafe")
SNAPSHOT = Bound(kind="snapshots", why="it has 1 snapshot")


def test_libvirts_word_on_whether_a_domain_may_leave_counts_before_its_description() -> None:
    domains = guest("a"), replace(guest("b"), bound=(SNAPSHOT,)), replace(guest("c"), bound=(SNAPSHOT,))
    scene = Scene(Said({"h1": facts(*domains)}, bound={"a": UNSAFE}, wordless={"c"}))
    scene.keep_up(h1=("a", "b", "c"))
    assert scene.inventory.facts(("h1",)).holds == {
        "a": (Hold(kind=Holder.STORAGE, why=UNSAFE.why),),
        "c": (Hold(kind=Holder.SNAPSHOTS, why=SNAPSHOT.why),),
    }


def test_a_domain_that_may_leave_is_asked_about_again_only_when_it_has_changed() -> None:
    said = Said({"h1": facts(guest("a"), guest("b"))}, bound={"b": UNSAFE})
    scene = Scene(said)
    scene.keep_up(h1=("a", "b"))
    assert said.leaves == ["a", "b"]
    scene.clock.at += 3600
    scene.keep_up(h1=("a", "b"))
    assert said.leaves == ["a", "b", "b"], "its storage may be mended"
    said.facts_of["h1"] = facts(replace(guest("a"), disks=("/new",)), guest("b"))
    said.bound.clear()
    scene.clock.at += 3600
    scene.keep_up(h1=("a", "b"))
    assert said.leaves == ["a", "b", "b", "a", "b"]
    assert scene.inventory.facts(("h1",)).holds == {}


def test_the_store_keeps_a_document_for_each_host() -> None:
    with closing(Store.open("sqlite://", clock=FakeClock(1000.0))) as store:
        store.remember_host("h1", "old")
        store.remember_host("h1", "new")
        store.of_group("other", ("other",)).remember_host("h2", "two")
        assert store.host_facts() == {"h1": "new", "h2": "two"}
        store.forget(1000.0 + 91 * 86400, keep_days=90, keep_bytes=10_000)
        assert store.host_facts() == {}


LOADS = PredictedLoads(source=Prediction.exact(0.5), destination=Prediction.exact(0.5))
MOVE = Move(domain="a", uuid="a", source="h1", destination="h2", predicted=LOADS)


def test_before_a_move_both_hosts_are_asked_unless_they_were_just_asked() -> None:
    said = Said({"h1": facts(guest("a"), guest("b")), "h2": facts(), "h3": facts()})
    scene = Scene(said)
    scene.keep_up(h1=("a", "b"), h2=(), h3=())
    said.looked.clear()
    said.leaves.clear()
    scene.inventory.ask([MOVE], skip=(), acts=True)
    assert said.looked == []
    scene.clock.at += 60
    scene.inventory.ask([MOVE], skip=(), acts=False)
    assert said.looked == [], "for a recommendation a look some minutes ago will do"
    said.facts_of["h2"], said.bound["a"] = facts(networks=()), UNSAFE
    scene.inventory.ask([MOVE], skip=(), acts=True)
    assert sorted(said.looked) == ["h1", "h2"]
    assert said.leaves == ["a"], "what moves is asked about again"
    found = scene.inventory.facts()
    assert found.forbid("a", "h2")
    assert found.forbid("a", "h3")
    assert found.forbid("b", "h2")
    assert not found.forbid("b", "h3")


def test_before_a_move_a_host_that_does_not_answer_is_not_waited_for_again() -> None:
    said = Said({"h1": facts(guest("a")), "h2": facts()}, refused={"h2"})
    scene = Scene(said)
    scene.inventory.ask([MOVE], skip=("h1",), acts=True)
    assert said.looked == ["h2"]
    scene.inventory.ask([MOVE], skip=("h1",), acts=True)
    assert said.looked == ["h2"]
    assert not scene.inventory.facts(("h1", "h2")).forbid("a", "h2")


def test_a_host_is_waited_for_no_longer_than_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    class Hangs(AtOnce):
        def start(self, work: Callable[[], object], name: str, *, daemon: bool = True) -> Thread:
            return cast(Thread, None)

    scene = Scene(Said({"h1": facts(guest("a")), "h2": facts()}))
    scene.inventory.threads = Hangs()
    monkeypatch.setattr(inventory_module, "_MOST_WAIT_SECONDS", 0.05)
    scene.inventory.ask([MOVE], skip=(), acts=True)  # returns
    assert scene.inventory.facts(("h1", "h2")) == Facts()


def test_a_host_that_hangs_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inventory_module, "_MOST_WAIT_SECONDS", 0.05)
    go_on = threading.Event()

    class Hanging(Said):
        def facts(self, host: str) -> HostFacts:
            found = super().facts(host)
            assert host == "h1" or go_on.wait(5)
            return found

    said = Hanging({"h1": facts(guest("a")), "h2": facts()})
    inventory = Inventory(lambda: cast(Hosts, said))
    for _ in range(5):
        inventory.ask([MOVE], skip=(), acts=True)
    assert sorted(said.looked) == ["h1", "h2"]
    go_on.set()


def test_after_a_refusal_both_hosts_are_asked_again() -> None:
    said = Said({"h1": facts(guest("a")), "h2": facts()})
    scene = Scene(said)
    scene.keep_up(h1=("a",), h2=())
    said.facts_of["h2"] = facts(networks=())
    scene.inventory.look_again(["h1", "h2"])
    assert scene.inventory.facts(("h1", "h2")).lacks == {"h2": (PROD,)}


def test_a_host_with_a_busy_domain_is_looked_at_again_soon() -> None:
    said = Said({"h1": facts(guest("a"))}, bound={"a": Bound(kind="job", why="another job works on it")})
    scene = Scene(said)
    scene.keep_up(h1=("a",))
    assert scene.inventory.facts(("h1",)).holds.keys() == {"a"}
    said.bound.clear()
    scene.clock.at += 60
    assert scene.keep_up(h1=("a",)) == ["h1"]
    assert scene.inventory.facts(("h1",)).holds == {}


# --- images -----------------------------------------------------------------------------------------------------------


def with_image(uuid: str, image: str) -> Needs:
    return replace(guest(uuid), images=(image,))


def test_before_a_move_its_destination_is_asked_for_its_images_once_for_each_look() -> None:
    said = Said({"h1": facts(with_image("a", "/srv/a"), with_image("b", "/srv/b")), "h2": facts(), "h3": facts()})
    scene = Scene(said)
    scene.keep_up(h1=("a", "b"), h2=(), h3=())
    said.absent.add(("h2", "/srv/a"))
    assert not scene.inventory.facts(("h1", "h2", "h3")).forbid("a", "h2")
    for _ in range(2):
        scene.inventory.ask([MOVE], skip=(), acts=True)
    assert said.sought == [("h2", "/srv/a")]
    found = scene.inventory.facts()
    assert [found.forbid("a", "h2"), found.forbid("a", "h3"), found.forbid("b", "h2")] == [True, False, False]


def test_an_image_that_has_come_since_is_found_at_the_next_look() -> None:
    said = Said({"h1": facts(with_image("a", "/srv/a")), "h2": facts()}, absent={("h2", "/srv/a")})
    scene = Scene(said)
    scene.keep_up(h1=("a",), h2=())
    scene.inventory.ask([MOVE], skip=(), acts=True)
    assert scene.inventory.facts(("h1", "h2")).forbid("a", "h2")
    said.absent.clear()
    scene.clock.at += 60
    scene.inventory.ask([MOVE], skip=(), acts=True)
    assert not scene.inventory.facts().forbid("a", "h2")


def test_an_image_of_which_no_pool_tells_stands_against_nothing() -> None:
    said = Said({"h1": facts(with_image("a", "/srv/a")), "h2": facts()}, unpooled={"/srv/a"})
    scene = Scene(said)
    scene.keep_up(h1=("a",), h2=())
    scene.inventory.ask([MOVE], skip=(), acts=True)
    scene.inventory.ask([MOVE], skip=(), acts=True)
    assert said.sought == [("h2", "/srv/a")]
    assert not scene.inventory.facts(("h1", "h2")).forbid("a", "h2")


def test_images_of_domains_that_are_gone_are_not_asked_for_again() -> None:
    said = Said({"h1": facts(with_image("a", "/srv/a")), "h2": facts()}, absent={("h2", "/srv/a")})
    scene = Scene(said)
    scene.keep_up(h1=("a",), h2=())
    scene.inventory.ask([MOVE], skip=(), acts=True)
    said.facts_of["h1"] = facts()
    said.sought.clear()
    scene.inventory.look("h1")
    scene.inventory.look("h2")
    assert said.sought == []


def test_what_a_disk_has_stored_by_now_is_no_reason_to_ask_again_whether_its_domain_may_leave() -> None:
    disk = CopyableDisk(device="vda", path="/srv/a", format="raw", capacity_bytes=9, stored_bytes=1)
    said = Said({"h1": facts(replace(guest("a"), copyable=(disk,)))})
    scene = Scene(said)
    scene.inventory.look("h1")
    said.facts_of["h1"] = facts(replace(guest("a"), copyable=(replace(disk, stored_bytes=2),)))
    scene.inventory.look("h1")
    assert said.leaves == ["a"]


def test_a_host_that_cannot_be_read_is_told_of_once() -> None:
    scene = Scene(Said({"h1": facts(guest("u1"))}, refused={"h1"}))
    structlog.reset_defaults()  # a test of a whole command may have set another level
    with capture_logs() as told:
        for _ in range(3):
            scene.keep_up(h1=("u1",))
            scene.clock.at += 301
    assert [one["log_level"] for one in told] == ["warning", "debug", "debug"]
