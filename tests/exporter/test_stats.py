"""Questions about domains whose QEMU does not answer: what libvirtd can bear, and who is answered for."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from exporter.recording import Recorded
from virtpoise_exporter.virt import stats
from virtpoise_exporter.virt.link import Link
from virtpoise_exporter.virt.model import Domain
from virtpoise_exporter.virt.stats import Stats


class Daemon(Link):
    """A libvirtd as its exporter sees it: a question about a domain that hangs does not return and keeps hold of it,
    and is stepped over by the next."""

    def __init__(self, *hanging: str) -> None:
        super().__init__("recorded:///", lambda _domains: None)
        self._hanging = set(hanging)
        self._held: set[str] = set()
        self._lock = threading.Lock()
        self._end = threading.Event()
        self.at_once = self.most_at_once = 0

    def end(self) -> None:
        self._end.set()

    def handles(self, uuids: Iterable[str]) -> list[Any]:
        connection = SimpleNamespace(domainListGetStats=self._answer)
        return [SimpleNamespace(UUIDString=lambda uuid=uuid: uuid, connect=lambda: connection) for uuid in uuids]

    def _answer(self, handles: Sequence[Any], _groups: int, _flags: int) -> list[tuple[Any, dict[str, int]]]:
        with self._lock:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            answered = []
            for handle in handles:
                uuid = handle.UUIDString()
                with self._lock:
                    hangs = uuid in self._hanging and uuid not in self._held
                    if hangs:
                        self._held.add(uuid)
                if hangs:
                    self._end.wait(30)
                answered.append((handle, {} if uuid in self._hanging else {"cpu.time": 1}))
            return answered
        finally:
            with self._lock:
                self.at_once -= 1


MakeDaemon = Callable[..., Daemon]


@pytest.fixture
def some(recorded: Recorded) -> list[Domain]:
    return [replace(recorded.domain("web"), uuid=str(number)) for number in range(100)]


@pytest.fixture
def daemon() -> Iterator[MakeDaemon]:
    made: list[Daemon] = []

    def make(*hanging: str) -> Daemon:
        made.append(Daemon(*hanging))
        return made[-1]

    yield make
    for one in made:
        one.end()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats, "STATS_PATIENCE_SECONDS", 0.2)


def test_all_domains_are_answered_for(daemon: MakeDaemon, some: list[Domain]) -> None:
    answer = Stats(daemon()).of(1)(some, 10.0)
    assert answer.stats.keys() == {domain.uuid for domain in some}
    assert answer.complete


def test_a_domain_that_hangs_does_not_keep_the_others_from_being_answered_for(
    daemon: MakeDaemon, some: list[Domain]
) -> None:
    answer = Stats(daemon("3")).of(1)(some, 10.0)
    assert {uuid for uuid, told in answer.stats.items() if told} == {domain.uuid for domain in some} - {"3"}
    assert not answer.complete


def test_waiting_for_a_domain_that_hangs_is_no_work(daemon: MakeDaemon, some: list[Domain]) -> None:
    began = time.monotonic()
    answer = Stats(daemon("3")).of(1)(some, 10.0)
    assert answer.seconds <= time.monotonic() - began - 0.2


def test_whoever_asks_libvirtd_is_left_room_for_the_list_of_domains(daemon: MakeDaemon, some: list[Domain]) -> None:
    """It works on five questions of a client at once, and then ignores it until the connection breaks."""
    libvirtd = daemon(*(str(number) for number in range(0, 100, 5)))
    shared = Stats(libvirtd)
    for groups in (1, 2, 4):
        assert not shared.of(groups)(some, 5.0).complete
    assert libvirtd.most_at_once == libvirtd.at_once == 4


def test_where_no_room_is_left_the_rest_is_not_waited_for(daemon: MakeDaemon, some: list[Domain]) -> None:
    ask = Stats(daemon(*(str(number) for number in range(4)))).of(1)
    ask(some, 10.0)
    assert ask(some, 3600.0).stats == {}  # and not only after an hour
