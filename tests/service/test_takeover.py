"""Two whole balancers on one store: whoever is killed or stopped is replaced within three intervals, and the one that
comes back waits.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from virtpoise_lab.apart import Switch
from virtpoise_lab.contenders import ACTS, ACTS_NO_LONGER, WAITS, Contender, no_hosts
from virtpoise_lab.postgresql import Server

pytestmark = pytest.mark.early

INTERVAL_SECONDS = 5.0
SCRAPE_TIMEOUT_SECONDS = 10.0  # Prometheus' default


@pytest.fixture(params=["sqlite", "postgresql"])
def state(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    if request.param == "sqlite":
        return {"url": f"sqlite:///{tmp_path}/state.db"}
    server: Server = request.getfixturevalue("postgresql")
    return {"url": server.new_database(), "password_file": str(server.password_file)}


@contextmanager
def two(tmp_path: Path, state: dict[str, str]) -> Iterator[tuple[Contender, Contender]]:
    """The one that acts, and the one that waits."""
    with ExitStack() as opened:
        url = opened.enter_context(no_hosts())
        first = Contender(tmp_path / "first", url, state, INTERVAL_SECONDS)
        opened.callback(first.end)
        first.wait_until_it_leads()
        second = Contender(tmp_path / "second", url, state, INTERVAL_SECONDS)
        opened.callback(second.end)
        second.wait_for_log(WAITS)
        assert not second.leads()
        yield first, second


def test_a_killed_balancer_is_replaced_within_three_intervals(tmp_path: Path, state: dict[str, str]) -> None:
    with two(tmp_path, state) as (first, second):
        first.send(signal.SIGKILL)
        seconds = second.wait_until_it_leads()
        assert seconds < 3 * INTERVAL_SECONDS


def test_a_stopped_balancer_is_replaced_and_waits_when_it_goes_on(tmp_path: Path, postgresql: Server) -> None:
    state = {"url": postgresql.new_database(), "password_file": str(postgresql.password_file)}
    with two(tmp_path, state) as (first, second):
        first.send(signal.SIGSTOP)
        seconds = second.wait_until_it_leads()
        assert seconds < 3 * INTERVAL_SECONDS
        first.send(signal.SIGCONT)
        first.wait_for_log(ACTS_NO_LONGER)
        first.wait_for_log(WAITS)
        assert "Traceback" not in first.log
        assert second.leads()
        assert not first.leads()


def test_while_the_database_is_away_nobody_acts_and_afterwards_one_does(tmp_path: Path, postgresql: Server) -> None:
    state = {"url": postgresql.new_database(), "password_file": str(postgresql.password_file)}
    with two(tmp_path, state) as (first, second):
        postgresql.stop()
        try:
            first.wait_for_log(ACTS_NO_LONGER)
            first.wait_for_log("nothing is done: state.url: ", times=2)
            assert not first.leads()
            assert not second.leads()
        finally:
            postgresql.start()
        first.wait_for(lambda: first.leads() or second.leads())
        assert not (first.leads() and second.leads())
        assert "Traceback" not in first.log + second.log


def test_a_balancer_follows_the_order_to_stop_while_its_database_is_frozen(tmp_path: Path, postgresql: Server) -> None:
    state = {"url": postgresql.new_database(), "password_file": str(postgresql.password_file)}
    with two(tmp_path, state) as (first, second):
        postgresql.freeze()
        try:
            first.wait_for_log(ACTS_NO_LONGER)
            began = time.monotonic()
            for one in (first, second):
                one.send(signal.SIGTERM)
            assert [first.wait_for_end(), second.wait_for_end()] == [0, 0]
            assert time.monotonic() - began < 30
        finally:
            postgresql.thaw()
        assert "Traceback" not in first.log + second.log


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes networks")
def test_a_balancer_that_is_cut_off_from_the_database_is_replaced_by_one_on_another_machine(tmp_path: Path) -> None:
    with ExitStack() as opened:
        switch = Switch(3)
        opened.callback(switch.close)
        here, there, server = switch.machines
        with server.inside():
            postgresql = Server(server.address)
        opened.callback(postgresql.close)
        state = {"url": postgresql.new_database(), "password_file": str(postgresql.password_file)}
        urls = [opened.enter_context(no_hosts(on)) for on in (here, there)]
        first = Contender(tmp_path / "first", urls[0], state, INTERVAL_SECONDS, here)
        opened.callback(first.end)
        first.wait_until_it_leads()
        second = Contender(tmp_path / "second", urls[1], state, INTERVAL_SECONDS, there)
        opened.callback(second.end)
        second.wait_for_log(WAITS)

        switch.cut(here, server)
        seconds = second.wait_until_it_leads()
        assert seconds < 3 * INTERVAL_SECONDS
        first.wait_for_log(ACTS_NO_LONGER)
        began = time.monotonic()
        assert not first.leads()
        assert time.monotonic() - began < SCRAPE_TIMEOUT_SECONDS

        switch.mend(here, server)
        first.wait_for_log(WAITS)
        assert second.leads()
        assert not first.leads()
        assert "Traceback" not in first.log + second.log


def test_of_two_whose_lock_file_was_removed_the_earlier_one_stops_in_words(tmp_path: Path) -> None:
    with two(tmp_path, {"url": f"sqlite:///{tmp_path}/state.db"}) as (first, second):
        (tmp_path / "state.db.lock").unlink()
        one_of_both = threading.Event()
        first.wait_for_log("was removed or replaced")
        one_of_both.wait(2 * INTERVAL_SECONDS)
        first.wait_for(lambda: first.leads() != second.leads())
        assert "Traceback" not in first.log + second.log


def test_a_lock_that_keeps_nobody_out_leaves_one_that_acts(tmp_path: Path, postgresql: Server) -> None:
    """As on a network file system whose locks hold on one machine only: here the second balancer has another name for
    the store.
    """
    (tmp_path / "real").mkdir()
    with ExitStack() as opened:
        url = opened.enter_context(no_hosts())
        first = Contender(tmp_path / "first", url, {"url": f"sqlite:///{tmp_path}/real/state.db"}, INTERVAL_SECONDS)
        opened.callback(first.end)
        first.wait_until_it_leads()
        (tmp_path / "real" / "alias.db").symlink_to(tmp_path / "real" / "state.db")
        second = Contender(tmp_path / "second", url, {"url": f"sqlite:///{tmp_path}/real/alias.db"}, INTERVAL_SECONDS)
        opened.callback(second.end)
        second.wait_until_it_leads()
        first.wait_for_log(ACTS_NO_LONGER)
        first.wait_for_log("which the lock did not keep out; waiting for it to fall silent", times=2)
        assert not first.leads()
        assert second.leads()
        second.end()
        first.wait_for_log(ACTS, times=2)
