"""Waiting for a drained host: it is empty when its own libvirt says so, and until then it is said what it waits for."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import pytest

from virtpoise_balancer.command import client, drained, orders
from virtpoise_balancer.command.drained import DrainProgress, look, wait_until_empty
from virtpoise_balancer.config import Config
from virtpoise_balancer.errors import NotKnown, Refused, VirtpoiseError

ORDERED = 1000.0
STATUS = {
    "cycle_at": 1010.0,
    "mode": "automatic",
    "paused": None,
    "brake": None,
    "blackout": None,
    "in_flight": [],
    "sentence": "h1 is drained: move a",
}
HOST = {
    "name": "h1",
    "draining": True,
    "why_unknown": None,
    "active_domains": 0,
    "asked_at": 1012.0,
    "domains": [],
}
ENDS = {"cpu_ratio": 0.5, "cpu_ratio_lower": 0.5, "cpu_ratio_upper": 0.5}
MOVE = {
    "domain": "a",
    "uuid": "u",
    "source": "h1",
    "destination": "h2",
    "predicted": {"source": ENDS, "destination": ENDS},
}
PLAN = {"format": "virtpoise/plan/1", "strategy": "default", "solved": True, "summary": "", "moves": [MOVE]}
STUCK = PLAN | {
    "solved": False,
    "moves": [],
    "refusals": [
        {"domain": "a", "host": None, "reason": "no_destination", "detail": {}},
        {"domain": "other", "host": None, "reason": "no_destination", "detail": {}},
        {"domain": "b", "host": "h1", "reason": "rule_ignore", "detail": {}},
    ],
}


def answers(
    status: Mapping[str, Any] = STATUS, host: Mapping[str, Any] = HOST, plan: Mapping[str, Any] | None = PLAN
) -> Callable[[str], Any]:
    found = {"status": status, "hosts/h1": {"status": host}, "plan": {"plan": plan}}
    return lambda path: found[path]


def test_empty_is_the_word_of_its_own_libvirt() -> None:
    assert look(answers(), "h1", ORDERED) == DrainProgress(left=0, empty=True)


@pytest.mark.parametrize(
    ("host", "waits"),
    [
        ({"asked_at": None, "active_domains": None}, "waits for the answer of its libvirt"),
        ({"asked_at": 999.0}, "waits for the answer of its libvirt"),  # before the drain was ordered
        (
            {"active_domains": None, "why_unknown": "its libvirt does not answer the balancer: no answer within 10 s"},
            "waits: its libvirt does not answer the balancer: no answer within 10 s",
        ),
        ({"active_domains": None}, "waits: its libvirt does not answer the balancer"),
    ],
)
def test_while_its_libvirt_says_nothing_it_is_not_empty(host: dict[str, Any], waits: str) -> None:
    assert look(answers(host=HOST | host), "h1", ORDERED) == DrainProgress(left=None, waits=waits)


def test_a_domain_that_prometheus_does_not_show_keeps_it_from_being_empty() -> None:
    assert look(answers(host=HOST | {"active_domains": 1}), "h1", ORDERED) == DrainProgress(left=1)


def test_a_migration_under_way_keeps_it_from_being_empty() -> None:
    flight = {"domain": "a", "source": "h2", "destination": "h1"}
    seen = look(answers(status=STATUS | {"in_flight": [flight]}), "h1", ORDERED)
    assert seen == DrainProgress(left=0, waits="a migrating")


@pytest.mark.parametrize(
    ("status", "host", "plan", "waits"),
    [
        (
            {"mode": "recommend"},
            {},
            PLAN,
            "waits for a person, since moves are only recommended (a): `virtpoise apply` makes them, `virtpoise mode automatic` "
            "makes all from now on",
        ),
        (
            {"mode": "recommend", "brake": {"why": "3 of 3 failed"}},
            {},
            PLAN,
            "waits for a person, since the brake is on: 3 of 3 failed; `virtpoise release` ends it",
        ),
        (
            {"blackout": {"text": "until 18:00 (window day)"}},
            {},
            PLAN,
            "waits: no migration begins until 18:00 (window day); `virtpoise apply` goes ahead",
        ),
        ({"paused": {"who": "alice"}}, {}, PLAN, "waits: paused by alice; `virtpoise resume` takes it back"),
        (
            {},
            {"domains": ["a", "b"]},
            STUCK,
            "cannot finish now: a stays: no host can take it; b stays: a rule excludes it from balancing",
        ),
        (
            {},
            {"why_unknown": "its list of domains contradicts libvirt's count: 7 active, 5 listed"},
            PLAN,
            "waits: nothing is moved off it while it is unknown: its list of domains contradicts libvirt's count: 7 active, 5 listed",
        ),
        ({}, {}, None, "h1 is drained: move a"),
    ],
)
def test_a_drain_says_what_it_waits_for(
    status: dict[str, Any], host: dict[str, Any], plan: dict[str, Any] | None, waits: str
) -> None:
    seen = look(answers(STATUS | status, HOST | {"active_domains": 2} | host, plan), "h1", ORDERED)
    assert seen == DrainProgress(left=2, waits=waits)


def test_a_drain_that_was_taken_back_is_no_longer_waited_for() -> None:
    with pytest.raises(Refused, match=r"^h1 is not draining any more$"):
        look(answers(host=HOST | {"draining": False}), "h1", ORDERED)
    before = look(answers(status=STATUS | {"cycle_at": 999.0}, host=HOST | {"draining": False}), "h1", ORDERED)
    assert before.waits == "waits for the balancer's next cycle"  # which does not know the order yet


def test_only_what_is_seen_after_the_order_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    ordered: list[float] = []
    waited_since: list[float] = []

    class Orders:
        def drain(self, host: str, _by: object) -> str:
            began = time.time()
            while (now := time.time()) <= began:  # it looks at the group first; a cycle may begin during that look
                pass
            ordered.append(now)
            return f"{host} drains from the next cycle on."

    def wait(_settings: Config, _host: str, since: float) -> None:
        waited_since.append(since)

    monkeypatch.setattr(orders, "settings_of_host", lambda *_: Config())
    monkeypatch.setattr(orders, "_orders", lambda _settings: nullcontext((Config(), Orders(), None)))
    monkeypatch.setattr(drained, "wait_until_empty", wait)
    orders.drain("h1", wait=True)
    assert waited_since[0] >= ordered[0]


def test_it_waits_through_restarts_and_prints_each_reason_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    silent = HOST | {"active_domains": None, "why_unknown": "its libvirt does not answer its exporter"}
    looks: list[VirtpoiseError | Callable[[str], Any]] = [
        VirtpoiseError("no balancer answers"),
        NotKnown("h1: no such host is scraped"),
        answers(host=silent),
        answers(host=silent),
        answers(),
    ]

    def get(_settings: Config, path: str) -> Any:
        now = looks[0]
        if isinstance(now, VirtpoiseError):
            looks.pop(0)
            raise now
        found = now(path)
        if path == "plan":
            looks.pop(0)
        return found

    monkeypatch.setattr(client, "get", get)
    wait_until_empty(Config(interval_seconds=1e-3), "h1", ORDERED)
    assert looks == []
    told = capsys.readouterr().err
    for line in (
        "h1: waits: no balancer answers\n",
        "h1: waits: h1: no such host is scraped\n",
        "h1: waits: its libvirt does not answer its exporter\n",
    ):
        assert told.count(line) == 1
