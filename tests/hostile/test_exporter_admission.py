"""Who holds a connection to the exporter, and who may have written its files."""

import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virtpoise_exporter.errors import UsageError
from virtpoise_exporter.web.admission import Door, Guest, Stage, place_of
from virtpoise_exporter.web.config import load

pytestmark = pytest.mark.hostile


class Task:
    """Something that can be ended, and knows whether it was."""

    def __init__(self) -> None:
        self.ended = False

    def cancel(self) -> None:
        self.ended = True


def enter(door: Door, address: str, places: int = 1) -> tuple[Guest | None, Task]:
    task = Task()
    return door.enter(address, task, places), task


def test_the_oldest_of_the_address_with_most_connections_makes_room() -> None:
    door = Door(10, 8, 1000)
    polite = [enter(door, f"10.0.0.{number}")[1] for number in range(3)]
    rude = [enter(door, "10.9.9.9")[1] for _ in range(7)]
    assert enter(door, "10.0.0.7")[0]
    assert [task.ended for task in rude] == [True] + [False] * 6
    assert not any(task.ended for task in polite)


def test_of_addresses_with_as_many_connections_the_one_that_waited_longest_makes_room() -> None:
    """Many addresses with one connection each do not end the one that is getting an answer."""
    door = Door(10, 8, 1000)
    scraper, scraping = enter(door, "10.0.0.1")
    assert scraper
    crowd = [enter(door, f"10.9.9.{number}")[1] for number in range(9)]
    door.move(scraper, Stage.WORKING)
    crowd += [enter(door, f"10.9.8.{number}")[1] for number in range(9)]
    assert not scraping.ended
    assert [task.ended for task in crowd] == [True] * 9 + [False] * 9


def test_an_address_takes_its_own_places_only() -> None:
    door = Door(100, 4, 1000)
    tasks = [enter(door, "10.9.9.9")[1] for _ in range(6)]
    assert [task.ended for task in tasks] == [True, True, False, False, False, False]


def test_a_connection_with_tls_takes_more_room() -> None:
    door = Door(8, 8, 1000)
    for _ in range(5):
        enter(door, "10.0.0.1", 4)
    assert len(door) == 2


def test_who_gets_on_outlives_who_does_not() -> None:
    """A slow reader moves forward with each part; one that reads nothing does not."""
    door = Door(3, 3, 1000)
    reader, reading = enter(door, "10.0.0.1")
    silent, silence = enter(door, "10.0.0.1")
    assert reader
    assert silent
    enter(door, "10.0.0.1")
    door.move(reader, Stage.SENDING, 10)
    enter(door, "10.0.0.1")
    assert (reading.ended, silence.ended) == (False, True)


def test_an_answer_that_is_being_made_is_not_thrown_away_for_another_of_the_same_address() -> None:
    door = Door(10, 2, 1000)
    for _ in range(2):
        guest, _task = enter(door, "10.0.0.1")
        assert guest
        door.move(guest, Stage.WORKING)
    assert enter(door, "10.0.0.1")[0] is None
    assert enter(door, "10.0.0.2")[0]


def test_unread_answers_of_one_address_do_not_end_those_of_another() -> None:
    door = Door(100, 100, 1000)
    prometheus, scraping = enter(door, "10.0.0.1")
    assert prometheus
    door.move(prometheus, Stage.SENDING, 300)
    rude = []
    for _ in range(5):
        guest, task = enter(door, "10.9.9.9")
        assert guest
        door.move(guest, Stage.SENDING, 300)
        rude.append(task)
    assert not scraping.ended
    assert [task.ended for task in rude] == [True] * 3 + [False] * 2


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([1, 4]), st.sampled_from(Stage)), max_size=60))
def test_there_are_never_more_than_there_are_places(steps: list[tuple[int, int, Stage]]) -> None:
    door, guests = Door(20, 10, 500), []
    for address, places, stage in steps:
        guest, task = enter(door, f"10.0.0.{address}", places)
        if guest:
            guests.append((guest, task))
            door.move(guest, stage, 200 if stage is Stage.SENDING else 0)
        alive = [one for one, ending in guests if not ending.ended]
        assert len(alive) == len(door)
        for other in range(4):
            assert sum(one.places for one in alive if one.address == f"10.0.0.{other}") <= 10
        assert sum(one.unread_bytes for one in alive) <= 500


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("127.0.0.9", "loopback"),
        ("::ffff:127.0.0.1", "loopback"),
        ("::1", "loopback"),
        ("", ""),
    ],
)
def test_what_counts_as_one_address(address: str, place: str) -> None:
    assert place_of(address) == place


# ---- files

USERS = "basic_auth_users:\n  prometheus: $2b$10$YjSmWLVA3TMPxgCR0H/Ss.7sqp2ofDaaHl/8dpoLa12WFhrtDAepO\n"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    folder = tmp_path / "etc"
    folder.mkdir(0o755)
    (folder / "web.yml").write_text(USERS)
    (folder / "web.yml").chmod(0o600)
    return folder / "web.yml"


def test_a_good_file_is_taken(config: Path) -> None:
    assert list(load(config).users) == ["prometheus"]
    config.chmod(0o640)
    assert list(load(config).users) == ["prometheus"]


@pytest.mark.parametrize(
    ("mode", "complaint"),
    [
        (0o622, "mode 0622, expected a file that only its owner may write"),
        (0o660, "mode 0660, expected a file that only its owner may write"),
        (0o644, "basic_auth_users: .* mode 0644, expected a file that not everybody may read"),
    ],
)
def test_a_file_that_others_may_write_or_read_is_refused(config: Path, mode: int, complaint: str) -> None:
    config.chmod(mode)
    with pytest.raises(UsageError, match=complaint):
        load(config)


def test_a_folder_that_others_may_write_is_refused(config: Path) -> None:
    config.parent.chmod(0o777)
    with pytest.raises(UsageError, match="mode 0777, expected a folder that only its owner may write"):
        load(config)
    config.parent.chmod(0o1777)  # as /tmp: there no user may replace another's file
    load(config)


def test_each_folder_on_the_way_counts_also_by_way_of_a_link(config: Path) -> None:
    top = config.parent.parent
    shared = top / "shared"
    shared.mkdir()
    link = shared / "web.yml"
    link.symlink_to(config)
    (top / "there").symlink_to(shared)
    (shared / "round").symlink_to("round")
    for path in (link, top / "there" / "web.yml", shared / ".." / "shared" / "web.yml"):
        shared.chmod(0o755)
        load(path)
        shared.chmod(0o777)
        with pytest.raises(UsageError, match=f"{shared}: mode 0777, expected a folder that only its owner may write"):
            load(path)
    with pytest.raises(UsageError, match="Too many levels of symbolic links"):
        load(shared / "round")
    top.chmod(0o777)
    with pytest.raises(UsageError, match=f"{top}: mode 0777, expected a folder that only its owner may write"):
        load(config)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a file away")
def test_a_link_that_another_user_placed_in_a_shared_folder_is_refused(config: Path) -> None:
    shared = config.parent.parent / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    link = shared / "web.yml"
    link.symlink_to(config)
    load(link)
    os.lchown(link, 12345, 12345)
    with pytest.raises(UsageError, match="owned by user 12345, expected root or user 0"):
        load(link)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
def test_a_secret_that_a_group_of_others_may_read_is_refused() -> None:
    code = (
        "import os, sys, pathlib\nfrom virtpoise_exporter.web.files import check_secret\n"
        "os.setgroups([]); os.setgid(12345); os.setuid(12345)\n"
        "check_secret(pathlib.Path(sys.argv[1])); print('taken')"
    )
    with tempfile.NamedTemporaryFile(dir="/var/lib") as file:

        def told(group: int) -> str:
            os.chown(file.name, 12345, group)
            Path(file.name).chmod(0o640)
            done = subprocess.run([sys.executable, "-c", code, file.name], capture_output=True, text=True)
            return (done.stdout + done.stderr).splitlines()[-1]

        assert told(12345) == "taken"
        assert told(100).endswith("mode 0640, expected a file of a group of the exporter's user (chmod g-r)")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a file away")
@pytest.mark.parametrize("what", ["web.yml", "."])
def test_a_file_or_folder_of_another_user_is_refused(config: Path, what: str) -> None:
    os.chown(config.parent / what, 12345, 12345)
    with pytest.raises(UsageError, match="owned by user 12345, expected root or user 0"):
        load(config)


def test_a_fifo_does_not_hang_it(config: Path) -> None:
    config.unlink()
    os.mkfifo(config, 0o600)
    raised: list[BaseException] = []

    def run() -> None:
        try:
            load(config)
        except UsageError as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(5)
    assert "expected a regular file" in str(raised[0])


@pytest.mark.parametrize("content", [b"\xff\xfe", b"a: \x00", b"x" * (1 << 21)])
def test_any_content_is_one_line(config: Path, content: bytes) -> None:
    config.write_bytes(content)
    with pytest.raises(UsageError) as raised:
        load(config)
    assert "\n" not in str(raised.value)
