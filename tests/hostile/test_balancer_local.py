"""The Unix socket for local commands, roles, and who gets a token: with real users of this machine."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext, suppress
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import HTTPConnection

from hostile.attacked import Attacked
from virtpoise_balancer.command import client
from virtpoise_balancer.config import parse_config
from virtpoise_balancer.errors import BadInput, VirtpoiseError
from virtpoise_balancer.tokens import ROLES, new_token, read_tokens
from virtpoise_balancer.web.connections import Connections, Place, place_of
from virtpoise_balancer.web.guard import counted_for
from virtpoise_balancer.web.server import WebServer, listen_locally

pytestmark = pytest.mark.hostile

Attack = Callable[..., Attacked]
NOBODY = 65534
ASK = """
import http.client, json, os, socket, sys
os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[2]))
connection = http.client.HTTPConnection("localhost")
connection.sock = socket.socket(socket.AF_UNIX)
try:
    connection.sock.connect(sys.argv[1])
except OSError as error:
    print(json.dumps([0, error.strerror])); sys.exit()
headers = {"Content-Type": "application/json", **json.loads(sys.argv[5])}
connection.request(sys.argv[3], sys.argv[4], "{}" if sys.argv[3] == "POST" else None, headers)
answer = connection.getresponse()
print(json.dumps([answer.status, answer.read().decode()]))
"""
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """A place for a socket that other users reach, and that only this one writes to."""
    folder = Path(f"/tmp/virtpoise-{os.getpid()}")
    folder.mkdir(mode=0o755)
    yield folder / "virtpoise.sock"
    for left in folder.iterdir():
        left.unlink()
    folder.rmdir()


def ask(path: Path, uid: int, method: str, target: str, **headers: str) -> tuple[int, str]:
    command = [sys.executable, "-c", ASK, str(path), str(uid), method, target, json.dumps(headers)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    status, text = json.loads(done.stdout)
    return status, text


@needs_root
def test_the_kernel_says_who_orders_over_the_socket(attack: Attack, path: Path) -> None:
    balancer = attack(socket=str(path))
    assert ask(path, 0, "POST", "/api/v1/pause")[0] == 200
    status, text = ask(path, NOBODY, "POST", "/api/v1/resume")
    assert (status, json.loads(text)["error"]) == (
        403,
        f"over {path} only root and the balancer's own user may order (see web.socket_group)",
    )
    assert ask(path, NOBODY, "POST", "/api/v1/resume", Authorization="Bearer wrong")[0] == 403
    assert ask(path, NOBODY, "GET", "/api/v1/plan")[0] == 200
    assert ask(path, 0, "POST", "/api/v1/resume", **{"Virtpoise-User": "alice"})[0] == 200
    assert [one[:2] for one in balancer.ask("orders")] == [
        ["alice (as root)", "socket"],
        ["?", "socket"],
        ["root", "socket"],
    ]


@needs_root
def test_with_reading_closed_other_users_do_not_read(attack: Attack, path: Path) -> None:
    attack(socket=str(path), read="token")
    assert ask(path, 0, "GET", "/api/v1/plan")[0] == 200
    assert ask(path, NOBODY, "GET", "/api/v1/plan")[0] == 403
    assert ask(path, NOBODY, "GET", "/-/healthy")[0] == 200


@needs_root
def test_a_group_lets_in_its_members_and_nobody_else(attack: Attack, path: Path) -> None:
    attack(socket=str(path), socket_group="nogroup")  # the group of uid 65534
    assert ask(path, NOBODY, "POST", "/api/v1/pause")[0] == 200
    assert ask(path, 12345, "GET", "/api/v1/plan") == (0, "Permission denied")


def test_the_socket_of_a_killed_balancer_is_taken_over_and_that_of_a_live_one_is_not(path: Path) -> None:
    config = parse_config(f"web: {{socket: {path}}}", "config").web
    first = listen_locally(config)
    assert first is not None
    with pytest.raises(VirtpoiseError, match=r"^web\.socket: .*another balancer listens there$"):
        listen_locally(config)
    first.close()  # as SIGKILL leaves it
    second = listen_locally(config)
    assert second is not None
    second.close()
    path.unlink()
    path.write_text("precious")
    with pytest.raises(VirtpoiseError, match="expected a socket or nothing"):
        listen_locally(config)
    assert path.read_text() == "precious"


@pytest.mark.parametrize("what", ["socket of another program", "file", "link", "nothing"])
def test_what_has_taken_the_place_of_the_socket_outlives_the_balancer(path: Path, what: str) -> None:
    config = parse_config(f"web: {{listen_address: '127.0.0.1:0', socket: {path}}}", "config").web
    server = WebServer.open(Starlette(), config)
    server.start()
    path.unlink()
    with ExitStack() as opened:
        if what == "socket of another program":
            opened.enter_context(socket.socket(socket.AF_UNIX)).bind(str(path))
        elif what == "file":
            path.write_text("precious")
        elif what == "link":
            path.symlink_to("/nowhere")
        server.stop()
        assert os.path.lexists(path) == (what != "nothing")


def test_the_socket_goes_with_its_balancer(path: Path) -> None:
    config = parse_config(f"web: {{listen_address: '127.0.0.1:0', socket: {path}}}", "config").web
    server = WebServer.open(Starlette(), config)
    assert path.is_socket()
    server.start()
    server.stop()
    assert not path.exists()


def test_a_socket_that_nothing_is_accepted_from_does_not_hold_up_the_start(path: Path) -> None:
    config = parse_config(f"web: {{socket: {path}}}", "config").web
    with ExitStack() as opened:
        hanging = opened.enter_context(socket.socket(socket.AF_UNIX))
        hanging.bind(str(path))
        hanging.listen(0)
        with suppress(BlockingIOError):
            for _ in range(10):  # until its queue is full
                waiting = opened.enter_context(socket.socket(socket.AF_UNIX))
                waiting.setblocking(False)
                waiting.connect(str(path))
        with pytest.raises(VirtpoiseError, match=r"another balancer listens there, and answers nothing$"):
            listen_locally(config)
    assert path.exists()


def put_nothing(path: Path) -> None:
    path.unlink()


def put_a_file(path: Path) -> None:
    path.unlink()
    path.write_text("precious")


def put_a_link(path: Path) -> None:
    path.unlink()
    (path.parent / "other").write_text("precious")
    path.symlink_to(path.parent / "other")


def put_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def put_another_balancers(path: Path) -> None:
    path.unlink()
    other = listen_locally(parse_config(f"web: {{socket: {path}}}", "config").web)
    assert other is not None
    other.close()  # its file stays


@pytest.mark.parametrize(
    ("put", "left"),
    [
        (None, False),
        (put_nothing, False),
        (put_a_file, True),
        (put_a_link, True),
        (put_a_folder, True),
        (put_another_balancers, True),
    ],
)
def test_at_its_stop_a_balancer_removes_its_own_socket_and_nothing_else(
    put: Callable[[Path], None] | None, left: bool, tmp_path: Path
) -> None:
    path = tmp_path / "virtpoise.sock"
    web = parse_config(f"web: {{listen_address: '127.0.0.1:0', socket: {path}}}", "config").web
    server = WebServer.open(Starlette(), web)
    server.start()
    if put is not None:
        put(path)
    server.stop()
    assert os.path.lexists(path) == left
    if put in (put_a_file, put_a_link):
        assert path.read_text() == "precious"


def test_of_two_balancers_that_start_at_once_one_has_the_socket(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one looks while the first one still gives rights to its socket."""
    web = parse_config(f"web: {{socket: {path}}}", "config").web
    chmod, said = Path.chmod, []

    def look(self: Path, mode: int) -> None:
        monkeypatch.setattr(Path, "chmod", chmod)
        with pytest.raises(VirtpoiseError) as refused:
            listen_locally(web)
        said.append(str(refused.value))
        self.chmod(mode)

    monkeypatch.setattr(Path, "chmod", look)
    first = listen_locally(web)
    assert first is not None
    with closing(first), closing(socket.socket(socket.AF_UNIX)) as client_of_first:
        client_of_first.connect(str(path))
    assert said == [f"web.socket: {path}: another balancer listens there"]


@contextmanager
def impostor(tls: ssl.SSLContext | None = None) -> Iterator[tuple[int, list[bytes]]]:
    """Took the balancer's port, and perhaps speaks TLS; what it hears."""
    heard: list[bytes] = []
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection, suppress(OSError):  # the client may leave at any time, also within the handshake
                    connection.settimeout(5)
                    with tls.wrap_socket(connection, server_side=True) if tls else nullcontext(connection) as spoken:
                        heard.append(spoken.recv(1 << 16))

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listening.getsockname()[1], heard
        listening.shutdown(socket.SHUT_RDWR)
    thread.join()


def test_who_took_the_balancers_port_gets_no_token(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("root:a-token-of-root-1234567890\n")
    tokens.chmod(0o600)
    with impostor() as (port, heard):
        text = f"web: {{listen_address: '127.0.0.1:{port}', token_file: {tokens}, socket: {tmp_path}/none.sock"
        for more in ("", ", read: token"):
            config = parse_config(f"{text}{more}}}", "config")
            with pytest.raises(VirtpoiseError, match="a token is sent over TLS only"):
                client.order(config, "plan/apply", {"moves": []}, "root")
        with pytest.raises(VirtpoiseError, match="a token is sent over TLS only"):
            client.get(config, "plan")
        assert heard == []
        allowed = parse_config(f"{text}, token_over_http: true}}", "config")
        with pytest.raises(VirtpoiseError, match="no balancer answers"):
            client.order(allowed, "plan/apply", {"moves": []}, "root")
        assert b"a-token-of-root-1234567890" in heard[0]


def openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an authority, two certificates of it (balancer, thief) and one that signed itself (stranger)."""
    folder = tmp_path_factory.mktemp("authority")
    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    for name in ("ca", "stranger"):
        openssl(folder, "req", "-x509", *new, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.pem")
    for name in ("balancer", "thief"):
        openssl(folder, "req", *new, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        signer = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial")
        openssl(folder, "x509", "-req", "-in", f"{name}.csr", *signer, "-out", f"{name}.pem")
    chain = "".join((folder / f"{name}.pem").read_text() for name in ("balancer", "ca"))
    (folder / "chain.pem").write_text(chain)
    return folder


@pytest.mark.parametrize(
    ("who", "file", "says"),
    [
        ("balancer", "balancer.pem", "no balancer answers"),  # the impostor has no more to say
        ("balancer", "chain.pem", "no balancer answers"),
        ("thief", "chain.pem", "it is of the same authority"),
        ("thief", "balancer.pem", "nothing was sent to it"),
        ("stranger", "chain.pem", "nothing was sent to it"),
    ],
)
def test_a_token_is_sent_to_the_configured_certificate_alone(
    tmp_path: Path, authority: Path, who: str, file: str, says: str
) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("root:a-token-of-root-1234567890\n")
    tokens.chmod(0o600)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(authority / f"{who}.pem", authority / f"{who}.key")
    with impostor(tls) as (port, heard):
        keys = f"cert_file: {authority / file}, key_file: {authority / 'balancer.key'}"
        config = parse_config(
            f"web: {{listen_address: '127.0.0.1:{port}', token_file: {tokens}, socket: {tmp_path}/none.sock, {keys}}}",
            "config",
        )
        with pytest.raises(VirtpoiseError, match=says):
            client.order(config, "plan/apply", {"moves": []}, "root")
    assert any(b"a-token-of-root-1234567890" in one for one in heard) == (who == "balancer")


def test_a_certificate_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "none.pem").write_text("none")
    for file, why in (("away.pem", "No such file or directory"), ("none.pem", "")):
        keys = f"cert_file: {tmp_path / file}, key_file: {tmp_path}/key.pem"
        config = parse_config(f"web: {{socket: {tmp_path}/none.sock, {keys}}}", "config")
        with pytest.raises(VirtpoiseError, match=rf"{file} \(web.cert_file\) cannot be read: {why}"):
            client.get(config, "plan")


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("127.0.0.9", "loopback"),
        ("::1", "loopback"),
        ("::ffff:127.0.0.1", "loopback"),
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8::ffff:2", "2001:db8::/64"),
        ("fe80::1%eth0", "fe80::/64"),
    ],
)
def test_connections_requests_and_listeners_count_for_one_place(address: str, place: str) -> None:
    connection = HTTPConnection({"type": "http", "client": (address, 1), "headers": []})
    assert place_of(address) == counted_for(connection) == place


class Ended(list[str]):
    """Who was ended, in this order."""

    def take(self, connections: Connections, who: str, address: str, *, busy: bool = False) -> Place | None:
        place = connections.take(address, lambda: self.append(who))
        if place is not None and busy:
            place.new = False
            place.works()
        return place


async def _handshakes(ended: Ended) -> None:
    connections = Connections(tls=True, most_new=8, most_new_per_address=6)
    kept = ended.take(connections, "kept", "10.0.0.1")
    assert kept is not None
    kept.new = False
    ended.take(connections, "honest", "10.0.0.1")
    for number in range(20):
        ended.take(connections, f"{number}", f"10.0.0.{66 + number % 2}")


def test_half_open_handshakes_of_some_addresses_end_none_of_another() -> None:
    ended = Ended()
    asyncio.run(_handshakes(ended))
    assert ended == [str(number) for number in range(13)]  # seven are left, and the honest one


async def _one_address(ended: Ended) -> None:
    connections = Connections(tls=True, most_new=8, most_new_per_address=6)
    for number in range(8):
        ended.take(connections, f"{number}", "10.0.0.66")


def test_an_address_has_handshakes_of_its_own_number_only() -> None:
    ended = Ended()
    asyncio.run(_one_address(ended))
    assert ended == ["0", "1"]


async def _many_addresses(ended: Ended) -> None:
    connections = Connections(tls=True, most_new=8)
    first = ended.take(connections, "kept", "10.0.0.1")
    assert first is not None
    first.new = False
    for number in range(10):
        ended.take(connections, f"{number}", f"10.0.1.{number}")
    ended.take(connections, "honest", "10.0.0.1")
    ended.take(connections, "last", "10.0.2.1")


def test_of_handshakes_of_one_an_address_the_oldest_ends() -> None:
    ended = Ended()
    asyncio.run(_many_addresses(ended))
    assert ended == ["0", "1", "2", "3"]


async def _burst(ended: Ended) -> None:
    connections = Connections(tls=False)
    for number in range(100):
        ended.take(connections, f"{number}", "10.0.0.1")


def test_without_tls_as_many_connections_come_at_once_as_there_are_places() -> None:
    ended = Ended()
    asyncio.run(_burst(ended))
    assert ended == []


async def _answers(ended: Ended) -> list[Place | None]:
    connections = Connections(tls=True, most=8, most_per_address=4)
    for number in range(8):
        ended.take(connections, f"{number}", f"10.0.0.{66 + number % 2}", busy=True)
    return [
        ended.take(connections, "honest", "10.0.0.1", busy=True),
        ended.take(connections, "another of a crowd", "10.0.0.66", busy=True),
        ended.take(connections, "honest again", "10.0.0.2", busy=True),
    ]


def test_answers_that_some_addresses_wait_for_keep_out_no_other_address() -> None:
    ended = Ended()
    first, crowd, again = asyncio.run(_answers(ended))
    assert first is not None
    assert crowd is None  # it has as many as the other
    assert again is not None
    assert ended == ["0", "1"]


async def _waiting(ended: Ended) -> Place | None:
    connections = Connections(tls=False, most=7, most_per_address=4)
    for number in range(6):
        ended.take(connections, f"{number}", f"10.0.0.{66 + number % 2}", busy=True)
    ended.take(connections, "honest", "10.0.0.1")
    return ended.take(connections, "another of a crowd", "10.0.0.66")


def test_a_crowd_that_is_all_being_answered_ends_no_request_of_another_address() -> None:
    ended = Ended()
    assert asyncio.run(_waiting(ended)) is None
    assert ended == []


@pytest.fixture
def tokens(tmp_path: Path) -> dict[str, str]:
    """One of each role, by its role; the file has their hashes."""
    made = {role: new_token(f"a-{role}-er", role) for role in ROLES}
    file = tmp_path / "hashed"
    file.write_text("".join(f"{line}\n" for _, line in made.values()))
    file.chmod(0o600)
    assert all(token not in file.read_text() for token, _ in made.values())
    assert [one.plain for one in read_tokens(file).values()] == [None] * 3
    return {role: token for role, (token, _) in made.items()}


@pytest.mark.parametrize("misspelt", ["Order:sha256:", "order:SHA256:", "sha256:", "order::sha256:", "order:sha256:0"])
def test_a_misspelt_line_of_a_hash_is_no_token_in_plain_text(tmp_path: Path, misspelt: str) -> None:
    _, line = new_token("alice", "order")
    file = tmp_path / "tokens"
    file.write_text(line.replace("order:sha256:", misspelt) + "\n")
    file.chmod(0o600)
    with pytest.raises(BadInput, match=r"tokens: line 1: expected a line of `virtpoise token NAME`"):
        read_tokens(file)


def request(balancer: Attacked, method: str, target: str, authorization: str, body: str = "{}") -> int:
    with closing(http.client.HTTPConnection("127.0.0.1", balancer.port, timeout=5)) as connection:
        headers = {"Content-Type": "application/json", "Authorization": authorization}
        connection.request(method, target, None if method == "GET" else body, headers)
        return connection.getresponse().status


def test_each_role_may_do_its_own(attack: Attack, tokens: dict[str, str], tmp_path: Path) -> None:
    from base64 import b64encode

    balancer = attack(token_file=str(tmp_path / "hashed"), read="token")
    mode = '{"mode": "recommend"}'
    found = {
        role: [
            request(balancer, "GET", "/metrics", f"Bearer {token}"),
            request(balancer, "POST", "/api/v1/pause", f"Bearer {token}"),
            request(balancer, "POST", "/api/v1/mode", f"Bearer {token}", mode),
        ]
        for role, token in (tokens | {"none": "wrong-wrong-wrong-wrong"}).items()
    }
    assert found == {
        "read": [200, 403, 403],
        "order": [200, 200, 403],
        "mode": [200, 200, 200],
        "none": [401, 401, 401],
    }
    for path in ("/", "/plan", "/api/v1/status", "/api/v1/events", "/sd/hosts", "/static/page.js", "/runbooks"):
        assert request(balancer, "GET", path, "") == 401
        assert request(balancer, "HEAD", path, "") == 401
    assert request(balancer, "GET", "/-/healthy", "") == 200
    # A browser attaches basic authentication to whatever another site's page asks for: good for reading alone.
    basic = b64encode(f"a-mode-er:{tokens['mode']}".encode()).decode()
    assert request(balancer, "GET", "/", f"Basic {basic}") == 200
    assert request(balancer, "POST", "/api/v1/pause", f"Basic {basic}") == 401
    other = b64encode(f"a-read-er:{tokens['mode']}".encode()).decode()
    assert request(balancer, "GET", "/", f"Basic {other}") == 401
