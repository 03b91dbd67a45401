"""Texts and numbers of others that a database cannot keep as they are: a cycle is written all the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from builders import domain, group, host, thesis_policy
from hostile.test_mangled import HONEST, NOW, look
from storing import BY_OTHERS, record
from virtpoise_balancer.analyse.others import Sighting, Sightings
from virtpoise_balancer.control.decide import CycleResult, next_cycle
from virtpoise_balancer.control.orders import By, Orders
from virtpoise_balancer.errors import NotKnown
from virtpoise_balancer.execute.libvirt_hosts import LibvirtHosts
from virtpoise_balancer.execute.transfer import Transfer
from virtpoise_balancer.execute.workers import Workers
from virtpoise_balancer.knowledge.leader import FileLock
from virtpoise_balancer.knowledge.records import Changes, Look
from virtpoise_balancer.knowledge.store import Store
from virtpoise_balancer.model import MigrationOutcome, Policy, Result
from virtpoise_balancer.monitor.replies import Series
from virtpoise_balancer.plan import plan
from virtpoise_lab.postgresql import Server

pytestmark = pytest.mark.hostile


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    url, password_file = f"sqlite:///{tmp_path}/state.db", None
    if request.param == "postgresql":
        server: Server = request.getfixturevalue("postgresql")
        url, password_file = server.new_database(), server.password_file
    with closing(Store.open(url, password_file=password_file)) as opened:
        lock = FileLock(tmp_path / "lock")
        assert lock.take()
        opened.lead(lock, "machine")
        yield opened


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        pytest.param("vm\0x", "vm\\0x", id="nul"),
        pytest.param("\U0001f600" * 255, "\U0001f600" * 255, id="the longest"),
    ],
)
def test_any_name_can_be_written_and_read_again(store: Store, name: str, kept: str) -> None:
    seen = group(host("h1", *[0.95] * 8), host("h2", *[0.2] * 8), domain("a", "h1", 0.7, uuid=name))
    made = plan(seen, thesis_policy())
    named = replace(made, moves=tuple(replace(one, domain=name) for one in made.moves))
    store.commit(
        Changes(
            cycle=next_cycle(1500.0, CycleResult.IDLE, name, None),
            look=Look(
                sightings=Sightings(at=1500.0, hosts=frozenset({"h1"}), domains={"u": Sighting(name="a", host="h1")}),
                changes=(replace(BY_OTHERS, domain=name, uuid=name),),
                same=False,
            ),
        ),
        1500.0,
    )
    entries = record(store, replace(named, summary=name), 1501.0, acted=True)
    (change,) = store.others(9)
    assert (change.domain, change.uuid) == (kept, kept)
    for migration_id, _ in entries:
        store.begin(migration_id)
        store.end(migration_id, MigrationOutcome(result=Result.FAILED, why=name))
    assert {(one.domain, one.uuid, one.why) for one in store.history(9)} == {(kept, kept, kept)}


@pytest.mark.parametrize("name", ["\0", "\ud800"])
def test_an_order_for_a_host_that_no_database_can_name_is_refused_as_any_other(store: Store, name: str) -> None:
    seen = group(host("h1", 0.2))
    orders = Orders(store=store, look=lambda: seen, mode=lambda: "recommend", carry_out=lambda _: plan(seen, Policy()))
    for order in (orders.drain, orders.undrain):
        with pytest.raises(NotKnown):
            order(name, By(who=name, origin=name))
    assert {one.accepted for one in store.actions(9)} == {False}


@pytest.mark.parametrize("number", [2**50 + 1, 2**63, 2**64 - 1, -1])
def test_a_number_of_libvirt_that_no_migration_has_is_unknown(number: int) -> None:
    class Said(Workers):
        def ask(self, *_arguments: object, **_named: object) -> Mapping[str, Any]:
            return {"data_processed": number, "time_elapsed": number, "downtime": 7}

    hosts = LibvirtHosts(
        uri_of=str, peer_uri_of=str, address_of=lambda _: None, transfer=cast(Transfer, None),
        connect_timeout_seconds=1.0, workers=Said(),
    )  # fmt: skip
    found = hosts.completed("h1", "u1")
    assert (found.transferred_bytes, found.seconds, found.downtime_seconds) == (None, None, 0.007)


@pytest.mark.parametrize("label", ["uuid", "domain"])
@pytest.mark.parametrize("text", ["", "\U0001f600" * 256])
def test_a_host_with_a_domain_that_no_libvirt_names_is_unknown_and_no_other(label: str, text: str) -> None:
    found = {name: list(answer) for name, answer in HONEST.items()}
    first, *others = found["domain_running"]
    found["domain_running"] = [Series({**first.labels, label: text}, first.samples), *others]
    hosts = look(found).observe(NOW).snapshot.hosts
    assert [(one.name, one.unknown and one.unknown.text) for one in hosts] == [
        ("h1", "its list of domains contradicts libvirt's count: 2 active, 1 listed"),
        ("h2", None),
        ("h3", None),
    ]
