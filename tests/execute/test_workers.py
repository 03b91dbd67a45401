"""Worker processes: real ones, with libvirt's own test driver, a server that never answers, and an ssh that hangs."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import libvirt
import pytest

from virtpoise_balancer.errors import LibvirtError
from virtpoise_balancer.execute import workers as workers_
from virtpoise_balancer.execute.facts import Presence
from virtpoise_balancer.execute.libvirt_hosts import LibvirtHosts
from virtpoise_balancer.execute.transfer import Throttle, Transfer
from virtpoise_balancer.execute.worker import __main__ as worker_main
from virtpoise_balancer.execute.worker import connection, domains
from virtpoise_balancer.execute.workers import Workers

ANSWERS = "test:///default"
UUID = "6695eb01-f6a4-8304-79aa-97f2502e193f"  # of the domain that the test driver has


@pytest.fixture
def workers(others: None) -> Iterator[Workers]:
    with Workers() as made:
        yield made
    assert children() == set()


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    """A host that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as server:
        yield server


@pytest.fixture
def silent(listening: socket.socket) -> str:
    """The address of a host that takes connections and never answers."""
    return f"qemu+tcp://127.0.0.1:{listening.getsockname()[1]}/system"


def hosts(workers: Workers, *, connect: float = 20.0, **uris: str) -> LibvirtHosts:
    return LibvirtHosts(
        uri_of=uris.__getitem__,
        peer_uri_of=lambda host: f"{uris[host]}?peer",
        address_of=lambda _host: None,
        transfer=Transfer(),
        connect_timeout_seconds=connect,
        workers=workers,
    )


_others: set[int] = set()  # children of this process before the test: servers that other tests share


@pytest.fixture(autouse=True)
def others() -> Iterator[None]:
    _others.update(children())
    yield
    _others.clear()


def children() -> set[int]:
    """All child processes of this one that the test has made, zombies too."""
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended
            found.update(int(pid) for pid in (task / "children").read_text().split())
    return found - _others


def held() -> tuple[int, int, set[int]]:
    return len(list(Path("/proc/self/task").iterdir())), len(list(Path("/proc/self/fd").iterdir())), children()


def no_more(before: tuple[int, int, set[int]]) -> bool:
    """Whether no thread, descriptor or process was added. (A thread that has ended is listed for a moment, so before as
    well.)
    """
    threads, descriptors, processes = held()
    return threads <= before[0] and descriptors <= before[1] and processes == before[2]


def wait_until(done: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def gone(pid: int) -> bool:
    """Whether there is no such process any more; a zombie, whose parent is not this process, counts as gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_a_worker_answers_one_question_after_another_over_one_connection(workers: Workers) -> None:
    asked = hosts(workers, h1=ANSWERS)
    known = [asked.presence("h1", uuid) for uuid in (UUID, UUID[:-1] + "0", UUID)]
    assert known == [Presence.RUNNING, Presence.ABSENT, Presence.RUNNING]
    (worker,) = children()
    asked.undefine("h1", UUID)
    assert asked.active_domains("h1") == 1
    assert asked.facts("h1").libvirt_version >= 9_000_000
    assert children() == {worker}


def test_what_libvirt_refuses_is_one_line_and_the_worker_serves_on(workers: Workers) -> None:
    asked = hosts(workers, h1=ANSWERS, h2="qemu+tcp://127.0.0.1:1/system", h3="nothing:///")
    with pytest.raises(LibvirtError, match=r"^abort: .*not supported by the connection driver: virDomainGetJobStats$"):
        asked.abort("h1", UUID)
    before = children()
    assert asked.presence("h1", UUID) is Presence.RUNNING
    assert children() == before
    with pytest.raises(LibvirtError, match=r"^nothing:///: "):
        asked.active_domains("h3")
    with pytest.raises(LibvirtError, match=r"^qemu\+tcp://127.0.0.1:1/system: .*refused$"):
        asked.presence("h2", UUID)


def test_past_the_deadline_the_worker_is_killed_and_the_next_question_has_another(
    workers: Workers, silent: str
) -> None:
    asked = hosts(workers, h1=silent, connect=0.5)
    before = held()
    with pytest.raises(LibvirtError, match=r"^qemu\+tcp://127.0.0.1:\d+/system: no answer within 0.5 s$"):
        asked.active_domains("h1")  # returns while the server is still silent
    wait_until(lambda: no_more(before))
    assert hosts(workers, h1=ANSWERS).presence("h1", UUID) is Presence.RUNNING


def test_fifty_hangs_leave_no_thread_no_descriptor_and_no_process(workers: Workers) -> None:
    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(10)]
    uris = {f"h{n}": f"qemu+tcp://127.0.0.1:{one.getsockname()[1]}/system" for n, one in enumerate(servers)}
    asked = hosts(workers, connect=1.0, **uris)
    before = held()

    def hang(host: str) -> None:
        with suppress(LibvirtError):
            asked.active_domains(host)

    with ThreadPoolExecutor(10) as pool:
        for _ in pool.map(hang, [*uris] * 5):
            pass
    wait_until(lambda: no_more(before))
    for server in servers:
        server.close()


def test_a_host_that_hangs_holds_up_no_other(workers: Workers, silent: str) -> None:
    asked = hosts(workers, h1=silent, h2=ANSWERS)
    with ThreadPoolExecutor(4) as pool:
        hanging = [pool.submit(asked.active_domains, "h1") for _ in range(3)]
        wait_until(lambda: len(children()) == 3)
        assert pool.submit(asked.presence, "h2", UUID).result(10) is Presence.RUNNING
        assert not any(answer.done() for answer in hanging)
        for worker in children():
            os.kill(worker, signal.SIGKILL)


@pytest.mark.parametrize("how", [signal.SIGSEGV, signal.SIGKILL])
def test_a_worker_that_dies_is_one_error_and_the_next_question_has_another(
    workers: Workers, listening: socket.socket, silent: str, how: signal.Signals
) -> None:
    asked = hosts(workers, h1=silent)
    before = held()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(asked.active_domains, "h1")
        connection, _ = listening.accept()  # it has begun
        os.kill(children().pop(), how)
        error = answer.exception(20)
        connection.close()
    assert str(error).endswith(f"the process that asked it was ended by {how.name}")
    wait_until(lambda: no_more(before))
    assert hosts(workers, h1=ANSWERS).presence("h1", UUID) is Presence.RUNNING


def test_a_worker_that_dies_before_it_leads_a_process_group_is_one_error(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = subprocess.Popen

    def dies(command: Any, **options: Any) -> Any:
        return started(
            [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"], **options | {"start_new_session": False}
        )

    monkeypatch.setattr(subprocess, "Popen", dies)
    with pytest.raises(LibvirtError, match=r"the process that asked it was ended by SIGKILL$"):
        hosts(workers, h1=ANSWERS).active_domains("h1")


def test_a_machine_that_starts_no_process_is_one_error(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    before = held()
    monkeypatch.setattr(workers_, "_COMMAND", ("/nonexistent/python",))
    with pytest.raises(LibvirtError, match=r"^no process can be started to ask: No such file or directory$"):
        hosts(workers, h1=ANSWERS).active_domains("h1")
    assert no_more(before)


def test_a_slow_start_of_the_process_is_not_taken_for_a_slow_host(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = ("sh", "-c", 'sleep 3; exec "$@"', "sh", *workers_._COMMAND)
    monkeypatch.setattr(workers_, "_COMMAND", slow)
    assert hosts(workers, connect=2.0, h1=ANSWERS).presence("h1", UUID) is Presence.RUNNING


def test_a_process_that_never_gets_ready_is_one_error(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    before = held()
    monkeypatch.setattr(workers_, "_COMMAND", ("sleep", "60"))
    monkeypatch.setattr(workers_, "_START_SECONDS", 0.1)
    with pytest.raises(LibvirtError, match=r"^no process can be started to ask: it is not ready after 0\.1 s$"):
        hosts(workers, h1=ANSWERS).active_domains("h1")
    assert no_more(before)


def test_xml_that_cannot_be_read_is_one_error() -> None:
    class Broken:
        def to(self, _uri: str) -> Broken:
            return self

        def getCapabilities(self) -> str:  # noqa: N802
            return "<capabilities>"

    reply = json.loads(worker_main._reply(Broken(), {"do": "facts", "uri": "", "arguments": []}))  # type: ignore[arg-type]
    assert reply["error"].startswith("libvirt's XML cannot be read: no element found")


def test_an_answer_that_nobody_foresaw_is_one_error_and_ends_no_worker() -> None:
    class Odd:
        def to(self, _uri: str) -> Odd:
            return self

        def numOfDomains(self) -> object:  # noqa: N802
            raise OverflowError("x" * 100_000)

    reply = json.loads(worker_main._reply(Odd(), {"do": "active_domains", "uri": "", "arguments": []}))  # type: ignore[arg-type]
    assert reply == {"error": f"unforeseen: OverflowError: {'x' * 300}"}


def test_a_reply_without_end_ends_its_worker(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers_, "_MOST_REPLY_BYTES", 20)
    with pytest.raises(LibvirtError, match=r"^h1: its answer exceeds 20 bytes$"):
        hosts(workers, h1=ANSWERS).facts("h1")


@pytest.mark.hostile
def test_a_hosts_message_is_one_line_and_bounded() -> None:
    def said(text: str) -> str:
        error = libvirt.libvirtError(text)
        error.err = (1, 0, text, 0, "", "", "", 0, 0)
        return connection.message(error)

    assert said("a\n\tb  \x01c") == "a b \ufffdc"
    assert len(said("x" * 4_000_000)) == 1003


def test_a_worker_that_died_while_it_was_idle_is_replaced(workers: Workers) -> None:
    asked = hosts(workers, h1=ANSWERS)
    asked.active_domains("h1")
    (worker,) = children()
    os.kill(worker, signal.SIGKILL)
    with suppress(LibvirtError):  # this one may find it dead
        asked.active_domains("h1")
    asked.active_domains("h1")
    assert children()
    assert worker not in children()


def test_idle_workers_are_ended_after_a_while(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers_, "_IDLE_SECONDS", 0.2)
    before = held()
    hosts(workers, h1=ANSWERS).active_domains("h1")
    assert children()
    wait_until(lambda: no_more(before))


def test_many_hosts_are_asked_by_a_bounded_number_of_workers(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers_, "_MOST_KEPT", 3)
    uris = {f"h{n}": f"test:///default?number={n}" for n in range(12)}
    asked = hosts(workers, connect=20.0, **uris)
    for host in uris:
        asked.active_domains(host)
    assert len(children()) == 3


@pytest.fixture
def hanging_ssh(tmp_path: Path) -> tuple[str, Path]:
    """A host's address whose ssh hangs and hears nothing, and the file in which it notes its process number."""
    program, noted = tmp_path / "ssh", tmp_path / "pid"
    program.write_text(f"#!/bin/sh\necho $$ > {noted}.new\nmv {noted}.new {noted}\nexec sleep 600\n")
    program.chmod(0o755)
    return f"qemu+ssh://h1/system?command={program}", noted


def test_no_ssh_outlives_the_deadline(workers: Workers, hanging_ssh: tuple[str, Path]) -> None:
    uri, noted = hanging_ssh
    with pytest.raises(LibvirtError, match="no answer within 5 s"):
        hosts(workers, h1=uri, connect=5.0).active_domains("h1")
    pid = int(noted.read_text())
    wait_until(lambda: gone(pid))


def test_no_worker_and_no_ssh_outlives_a_balancer_that_is_killed(hanging_ssh: tuple[str, Path]) -> None:
    uri, noted = hanging_ssh
    program = (
        "import sys; from virtpoise_balancer.execute.workers import Workers\n"
        "Workers().ask(sys.argv[1], 'connect', (), connect_seconds=60, seconds=60, what='')"
    )
    balancer = subprocess.Popen([sys.executable, "-c", program, uri])
    wait_until(noted.exists)
    ssh = int(noted.read_text())
    (worker,) = (int(pid) for pid in Path(f"/proc/{balancer.pid}/task/{balancer.pid}/children").read_text().split())
    balancer.kill()
    balancer.wait()
    wait_until(lambda: gone(worker))
    wait_until(lambda: gone(ssh))


@pytest.mark.parametrize("unread", [True, False])
def test_no_worker_outlives_a_balancer_that_is_killed_with_an_answer_unread_or_on_its_way(*, unread: bool) -> None:
    """The kernel then resets the connection, instead of ending it in order."""
    ours, theirs = socket.socketpair()
    worker = subprocess.Popen(
        workers_._COMMAND,
        stdin=theirs.fileno(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    theirs.close()
    with ours, worker:
        assert ours.recv(100) == b"{}\n"
        ours.sendall(json.dumps({"do": "facts", "uri": ANSWERS, "arguments": []}).encode() + b"\n")
        if unread:
            wait_until(lambda: bool(select.select([ours], [], [], 0)[0]))
        ours.close()
        try:
            assert (worker.wait(10), worker.stderr and worker.stderr.read()) == (-signal.SIGKILL, b"")
        finally:
            worker.kill()


def test_a_worker_whose_balancer_was_killed_before_it_was_ready_ends_without_a_traceback() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        ours.shutdown(socket.SHUT_RD)  # its first words meet a closed end, and nothing ends its requests
        with subprocess.Popen(
            workers_._COMMAND, stdin=theirs.fileno(), stderr=subprocess.PIPE, start_new_session=True
        ) as worker:
            theirs.close()
            try:
                assert (worker.wait(10), worker.stderr and worker.stderr.read()) == (-signal.SIGKILL, b"")
            finally:
                worker.kill()


def test_a_source_is_given_the_address_by_which_hosts_reach_each_other() -> None:
    sent: list[tuple[str, tuple[object, ...]]] = []

    class Noted(Workers):
        def ask(self, uri: str, call: str, arguments: Sequence[object], **_: Any) -> Any:
            sent.append((uri, (call, *arguments)))
            return True, None

        @contextmanager
        def lent(self, uri: str) -> Iterator[Any]:
            yield self

        def send(self, uri: str, call: str, arguments: Sequence[object]) -> None:
            sent.append((uri, (call, *arguments)))

    how = Transfer(encrypted=True, throttle=Throttle(initial_percent=20, increment_percent=10))
    addresses = {"h2": "fd00::2"}
    asked = replace(hosts(Noted(), h1="a", h2="b"), transfer=how, address_of=addresses.get)
    asked.reaches("h1", "h2")
    for destination in ("h2", "h1"):
        with asked.migration(UUID, "h1", destination, 7):
            pass
    assert sent == [
        ("a", ("reaches", "h1", "b?peer")),
        ("a", ("migrate", UUID, "b?peer", "b", "tcp://[fd00::2]", 7, asdict(how), [], False)),
        ("a", ("migrate", UUID, "a?peer", "a", None, 7, asdict(how), [], False)),
    ]


@pytest.mark.parametrize("value", ["somewhere", None, 3, {"running": True}])
def test_an_answer_that_is_not_what_was_asked_for_is_an_error(value: object) -> None:
    class Wrong(Workers):
        def ask(self, *_: Any, **__: Any) -> Any:
            return value

    with pytest.raises(LibvirtError, match="h1: the answer to presence is not as expected"):
        hosts(Wrong(), h1=ANSWERS).presence("h1", UUID)


def test_figures_of_a_job_that_are_missing_or_out_of_range_are_not_taken() -> None:
    class Odd(Workers):
        def ask(self, *_: Any, **__: Any) -> Any:
            return {"time_elapsed": 1500, "data_total": -1, "data_processed": "7", "memory_dirty_rate": 10}

    progress = hosts(Odd(), h1=ANSWERS).progress("h1", UUID)
    assert progress is not None
    assert (progress.elapsed_seconds, progress.total_bytes) == (1.5, None)
    assert (progress.processed_bytes, progress.remaining_bytes, progress.copied_ratio) == (None, None, None)
    assert progress.dirty_bytes_per_second == 40960


class Working:
    """A domain with a job, and the daemon of its host."""

    def __init__(self, **stats: int) -> None:
        self.stats: dict[str, int] = stats
        self.aborted = 0
        self.stands = (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_RUNNING_BOOTED)

    def lookupByUUIDString(self, _uuid: str) -> Working:  # noqa: N802
        return self

    def state(self) -> tuple[int, int]:
        return self.stands

    def jobStats(self, _flags: int = 0) -> dict[str, int]:  # noqa: N802
        return self.stats

    def abortJob(self) -> None:  # noqa: N802
        self.aborted += 1


# As libvirt 9.0 reports them. An older one names no operation.
_UNBOUNDED = {"type": libvirt.VIR_DOMAIN_JOB_UNBOUNDED, "time_elapsed": 21000, "data_total": 10**12}
BACKUP = _UNBOUNDED | {"operation": libvirt.VIR_DOMAIN_JOB_OPERATION_BACKUP}
DUMP = _UNBOUNDED | {"operation": libvirt.VIR_DOMAIN_JOB_OPERATION_DUMP}
OUT = _UNBOUNDED | {"operation": libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT}


@pytest.mark.parametrize("stats", [BACKUP, DUMP])
def test_a_persons_job_is_no_migration_and_is_not_aborted(stats: dict[str, int]) -> None:
    domain = Working(**stats)
    connection = cast(libvirt.virConnect, domain)
    assert domains.migration_job(connection, UUID) is None
    assert domains.is_worked_on(connection, UUID)
    with pytest.raises(domains.LeftAlone):
        domains.abort(connection, UUID)
    assert domain.aborted == 0


@pytest.mark.parametrize("stats", [OUT, _UNBOUNDED])
def test_a_migration_is_a_job_that_may_be_aborted(stats: dict[str, int]) -> None:
    domain = Working(**stats)
    connection = cast(libvirt.virConnect, domain)
    assert domains.migration_job(connection, UUID) == stats | {"switched": False}
    assert domains.is_worked_on(connection, UUID)
    domains.abort(connection, UUID)
    assert domain.aborted == 1


@pytest.mark.parametrize(
    ("state", "reason", "presence"),
    [
        (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_POSTCOPY, Presence.MIGRATING),
        (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_POSTCOPY_FAILED, Presence.TORN),
    ],
)
def test_a_migration_that_was_switched_to_post_copy_is_never_aborted(
    state: int, reason: int, presence: Presence
) -> None:
    domain = Working(**OUT)
    domain.stands = (state, reason)
    connection = cast(libvirt.virConnect, domain)
    assert domains.migration_job(connection, UUID) == OUT | {"switched": True}
    assert domains.presence(connection, UUID) == presence
    with pytest.raises(domains.LeftAlone, match="it has been switched to post-copy"):
        domains.abort(connection, UUID)
    assert domain.aborted == 0


def test_where_the_source_of_a_post_copy_has_died_the_destination_is_torn() -> None:
    domain = Working()
    connection = cast(libvirt.virConnect, domain)
    domain.stands = (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_RUNNING_POSTCOPY_FAILED)
    assert domains.presence(connection, UUID) == Presence.TORN
    domain.stands = (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_RUNNING_POSTCOPY)
    assert domains.presence(connection, UUID) == Presence.RUNNING


def test_how_a_domain_stands_on_a_host() -> None:
    connection = libvirt.open(ANSWERS)
    domain = connection.lookupByUUIDString(UUID)
    assert domains.presence(connection, UUID) == "running"
    domain.suspend()
    assert domains.presence(connection, UUID) == "paused"
    domain.destroy()
    assert domains.presence(connection, UUID) == "destroyed"
    domain.create()
    domain.shutdown()
    assert domains.presence(connection, UUID) == "shut off"
    domains.undefine(connection, UUID)
    domains.undefine(connection, UUID)
    assert domains.presence(connection, UUID) == "absent"
    assert domains.migration_job(connection, UUID) is None
    assert not domains.is_worked_on(connection, UUID)
    connection.close()


@pytest.mark.parametrize(
    ("xml", "flags"),
    [("<domain/>", 0), ("<domain><os><nvram>/v/a.fd</nvram></os></domain>", libvirt.VIR_DOMAIN_UNDEFINE_KEEP_NVRAM)],
    ids=["bios", "uefi"],
)
def test_the_definition_of_a_uefi_domain_is_removed_and_its_variables_stay(xml: str, flags: int) -> None:
    """As libvirt has it: without a word on the variables it refuses."""
    given: list[int] = []

    class Domain:
        def XMLDesc(self) -> str:  # noqa: N802  # libvirt's name
            return xml

        def undefineFlags(self, flags: int) -> None:  # noqa: N802  # libvirt's name
            given.append(flags)

    class Connection:
        def lookupByUUIDString(self, _uuid: str) -> Domain:  # noqa: N802  # libvirt's name
            return Domain()

    domains.undefine(cast(libvirt.virConnect, Connection()), UUID)
    assert given == [flags]


@pytest.mark.parametrize("alive", [True, False])
def test_a_connection_that_dies_under_a_call_is_no_answer(monkeypatch: pytest.MonkeyPatch, alive: bool) -> None:
    class Connection(connection.LibvirtConnection):
        def to(self, uri: str) -> libvirt.virConnect:
            self._open = cast(libvirt.virConnect, SimpleNamespace(isAlive=lambda: alive))
            return self._open

    def call(_connection: libvirt.virConnect) -> None:
        raise libvirt.libvirtError("no")

    monkeypatch.setitem(cast(dict[str, object], worker_main._CALLS), "connect", call)
    reply = json.loads(worker_main._reply(Connection(), {"do": "connect", "uri": "test:///", "arguments": []}))
    assert (reply["error"], reply["lost"]) == ("no", not alive)
