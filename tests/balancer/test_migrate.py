"""The end of a migration, read from both hosts: what is told when one of them does not answer. (What libvirt does is tested on the lab.)"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

import libvirt
import pytest

from virtpoise_balancer.errors import LibvirtError
from virtpoise_balancer.execute import migrate
from virtpoise_balancer.execute.migrate import Migrator
from virtpoise_balancer.model import Move, Outcome, PredictedLoads, Prediction, Result

LOADS = PredictedLoads(source=Prediction.exact(0.5), destination=Prediction.exact(0.5))
MOVE = Move(domain="a", uuid="u", source="h1", destination="h2", predicted=LOADS)


def refusal(code: int, message: str) -> libvirt.libvirtError:
    error = libvirt.libvirtError(message)
    error.err = (code, 0, message, 0, "", None, None, 0, 0)
    return error


@dataclass
class Host:
    """In the place of a host's libvirt, a connection to it, and the one domain there is."""

    others: dict[str, Host]
    domain: int | None = None  # its state; None: not here
    answers: bool = True
    dies: str | None = None  # which host goes silent when a migration has run
    keeps: bool = False  # the old definition is left behind and cannot be removed

    def lookupByUUIDString(self, _uuid: str) -> Host:  # noqa: N802 - libvirt's own name
        if not self.answers:
            raise refusal(libvirt.VIR_ERR_INTERNAL_ERROR, "client socket is closed")
        if self.domain is None:
            raise refusal(libvirt.VIR_ERR_NO_DOMAIN, "no domain with matching uuid")
        return self

    def state(self) -> tuple[int, int]:
        assert self.domain is not None
        return self.domain, 0

    def isActive(self) -> bool:  # noqa: N802
        return bool(self.domain != libvirt.VIR_DOMAIN_SHUTOFF)

    def jobStats(self, _flags: int = 0) -> dict[str, int]:  # noqa: N802
        return {"type": libvirt.VIR_DOMAIN_JOB_NONE}

    def migrateToURI3(self, target: str, _parameters: dict[str, int], _flags: int) -> None:  # noqa: N802
        self.others[target].domain = libvirt.VIR_DOMAIN_RUNNING
        self.domain = libvirt.VIR_DOMAIN_SHUTOFF if self.keeps else None
        if self.dies:
            self.others[self.dies].answers = False

    def abortJob(self) -> None: ...  # noqa: N802

    def undefine(self) -> None:
        raise refusal(libvirt.VIR_ERR_OPERATION_INVALID, "cannot undefine domain with nvram")

    def close(self) -> None: ...


@pytest.fixture
def hosts(monkeypatch: pytest.MonkeyPatch) -> dict[str, Host]:
    made: dict[str, Host] = {}
    made |= {"h1": Host(made, domain=libvirt.VIR_DOMAIN_RUNNING), "h2": Host(made)}

    def connect(uri: str, _timeout_seconds: float) -> Host:
        if not made[uri].answers:
            raise LibvirtError(f"{uri}: Connection refused")
        return made[uri]

    monkeypatch.setattr(migrate, "connect", connect)
    return made


MIGRATOR = Migrator(uri_of=str, connect_timeout_seconds=1, timeout_seconds=5, stop_grace_seconds=5)


def made() -> Outcome | None:
    return MIGRATOR.migrate(MOVE, lambda _: None, threading.Event())


def settled() -> Outcome | None:
    return MIGRATOR.settle(MOVE, lambda _: None, threading.Event())


@pytest.mark.parametrize("silent", ["h1", "h2"])
def test_no_end_is_told_until_both_hosts_tell_it(hosts: dict[str, Host], silent: str) -> None:
    hosts["h1"].dies = silent
    assert made() is None
    assert settled() is None
    hosts[silent].answers = True
    outcome = settled()
    assert outcome is not None
    assert outcome.result is Result.DONE


def test_a_migration_that_libvirt_does_not_end_has_no_end_yet(
    hosts: dict[str, Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    never = threading.Event()
    monkeypatch.setattr(migrate, "_WATCH_SECONDS", 0.01)
    monkeypatch.setattr(migrate, "_ABORT_SECONDS", 0.01)
    monkeypatch.setattr(Host, "migrateToURI3", lambda *_: never.wait(5))
    hasty = Migrator(uri_of=str, connect_timeout_seconds=1, timeout_seconds=0.05, stop_grace_seconds=5)
    assert hasty.migrate(MOVE, lambda _: None, threading.Event()) is None
    never.set()


def test_how_fast_memory_was_written_to_is_kept_of_what_was_seen_last(
    hosts: dict[str, Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    page = {"type": libvirt.VIR_DOMAIN_JOB_UNBOUNDED, "memory_page_size": 4096}
    # Before QEMU has been through the memory once it knows no rate; when the migration has ended, libvirt tells none any more.
    told = [{}, page, {**page, "memory_dirty_rate": 0}, {**page, "memory_dirty_rate": 10}, page]
    seen = threading.Event()

    def statistics(_host: Host, flags: int = 0) -> dict[str, int]:
        if flags or len(told) == 1:
            seen.set()
        return told.pop(0) if told and not flags else {}

    def arrives(host: Host, target: str, *_: object) -> None:
        assert seen.wait(5)
        host.others[target].domain, host.domain = libvirt.VIR_DOMAIN_RUNNING, None

    monkeypatch.setattr(migrate, "_WATCH_SECONDS", 0.01)
    monkeypatch.setattr(Host, "jobStats", statistics)
    monkeypatch.setattr(Host, "migrateToURI3", arrives)
    outcome = made()
    assert outcome is not None
    assert (outcome.result, outcome.dirty_bytes_per_second) == (Result.DONE, 40960)


@pytest.mark.parametrize(
    ("source", "destination"),
    [
        (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED),
        (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_RUNNING),
        (None, libvirt.VIR_DOMAIN_PAUSED),
        (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_RUNNING),
    ],
)
def test_a_domain_that_is_just_handed_over_is_looked_at_again(
    hosts: dict[str, Host], monkeypatch: pytest.MonkeyPatch, source: int | None, destination: int
) -> None:
    """The job has ended at the source, as one that took over sees it, and its hosts have not: no end yet, least of all a failure."""
    hosts["h1"].domain, hosts["h2"].domain = source, destination

    def arrives(_seconds: float) -> None:
        hosts["h1"].domain, hosts["h2"].domain = None, libvirt.VIR_DOMAIN_RUNNING

    monkeypatch.setattr(time, "sleep", arrives)
    outcome = settled()
    assert outcome is not None
    assert outcome.result is Result.DONE


def test_a_domain_that_stays_paused_at_its_destination_is_told_as_that(
    hosts: dict[str, Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts["h1"].domain, hosts["h2"].domain = None, libvirt.VIR_DOMAIN_PAUSED
    monkeypatch.setattr(migrate, "_WATCH_SECONDS", 0.01)
    monkeypatch.setattr(migrate, "_HANDOVER_SECONDS", 0.05)
    outcome = settled()
    assert outcome is not None
    assert outcome.why == "the end of the migration was not seen: absent on h1, paused on h2"


def test_a_host_that_is_silent_before_anything_began_is_an_end(hosts: dict[str, Host]) -> None:
    hosts["h2"].answers = False
    assert made() == Outcome(result=Result.SKIPPED, why="h2: Connection refused")


def test_a_definition_that_cannot_be_removed_is_told_and_not_asked_for_ever(hosts: dict[str, Host]) -> None:
    hosts["h1"].keeps = True
    outcome = made()
    assert outcome is not None
    assert outcome.result is Result.FAILED
    assert outcome.why == "defined on h1, running on h2; undefine: cannot undefine domain with nvram"


def test_a_domain_whose_qemu_died_on_the_way_is_lost_though_it_is_still_defined(
    hosts: dict[str, Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    def died(host: Host, *_: object) -> None:
        host.domain = libvirt.VIR_DOMAIN_SHUTOFF
        raise refusal(libvirt.VIR_ERR_OPERATION_FAILED, "domain is not running")

    monkeypatch.setattr(Host, "migrateToURI3", died)
    outcome = made()
    assert outcome is not None
    assert (outcome.result, outcome.lost) == (Result.FAILED, True)


def test_a_domain_that_stayed_is_not_lost(hosts: dict[str, Host], monkeypatch: pytest.MonkeyPatch) -> None:
    def failed(*_: object) -> None:
        raise refusal(libvirt.VIR_ERR_OPERATION_FAILED, "unable to connect to server")

    monkeypatch.setattr(Host, "migrateToURI3", failed)
    outcome = made()
    assert outcome is not None
    assert (outcome.result, outcome.lost) == (Result.FAILED, False)
