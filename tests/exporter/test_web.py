"""The HTTP server: what it serves, whom it lets in, and that no client holds up another."""

import asyncio
import base64
import gzip
import http.client
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path

import bcrypt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from virtpoise_exporter.errors import UsageError
from virtpoise_exporter.web import config as web_config
from virtpoise_exporter.web import server as web_server
from virtpoise_exporter.web.auth import parse_basic
from virtpoise_exporter.web.config import Watched, load
from virtpoise_exporter.web.http import BadRequestError, Request, accepts_gzip, parse_head
from virtpoise_exporter.web.server import Server, open_socket, scrape_seconds

PAGE = b"virtpoise_test 1\n"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Message
    body: bytes


@dataclass
class Running:
    port: int
    asked: list[float] = field(default_factory=list)

    def get(self, path: str = "/metrics", tls: ssl.SSLContext | None = None, **headers: str) -> Answer:
        connection: http.client.HTTPConnection
        if tls:
            connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=60, context=tls)
        else:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        body = response.read()
        connection.close()
        return Answer(response.status, response.headers, body)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)

    def talk(self, sent: bytes) -> bytes:
        """What comes back until the server closes."""
        with self.connect() as connection:
            connection.sendall(sent)
            received = b""
            while part := connection.recv(65536):
                received += part
        return received


@contextmanager
def serving(config: Path | None = None, scrape: Callable[[float], bytes] | None = None) -> Iterator[Running]:
    listening = open_socket("127.0.0.1", 0)
    running = Running(listening.getsockname()[1])

    def record(seconds: float) -> bytes:
        running.asked.append(seconds)
        return scrape(seconds) if scrape else PAGE

    server, loop = Server(record, Watched(config)), asyncio.new_event_loop()
    task = loop.create_task(server.serve(listening))

    def run() -> None:
        try:
            loop.run_until_complete(task)
        except asyncio.CancelledError:
            for other in asyncio.all_tasks(loop):
                other.cancel()
            loop.run_until_complete(asyncio.sleep(0.05))
            loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield running
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join(10)
        listening.close()


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


class TestPages:
    def test_metrics(self) -> None:
        with serving() as running:
            response = running.get()
        assert (response.status, response.body) == (200, PAGE)
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"

    def test_metrics_compressed_for_who_asks(self) -> None:
        with serving() as running:
            response = running.get(Accept_Encoding="gzip")
        assert response.headers["Content-Encoding"] == "gzip"
        assert gzip.decompress(response.body) == PAGE

    @pytest.mark.parametrize(
        ("path", "status"),
        [
            ("/", 200),
            ("/-/healthy", 200),
            ("/-/ready", 200),
            ("/metrics?x=1", 200),
            ("/etc/passwd", 404),
            ("/metrics/..", 404),
        ],
    )
    def test_paths(self, path: str, status: int) -> None:
        with serving() as running:
            assert running.get(path).status == status

    def test_several_requests_on_one_connection(self) -> None:
        with serving() as running:
            connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=10)
            for _ in range(3):
                connection.request("GET", "/metrics")
                assert connection.getresponse().read() == PAGE
            connection.close()

    def test_head_has_no_body(self) -> None:
        with serving() as running:
            answer = running.talk(b"HEAD /metrics HTTP/1.1\r\nConnection: close\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert answer.endswith(b"\r\n\r\n")

    @pytest.mark.parametrize(
        ("sent", "status"),
        [
            (b"POST /metrics HTTP/1.1\r\nConnection: close\r\n\r\n", b"405"),
            (b"GET /-/reload HTTP/1.1\r\nConnection: close\r\n\r\n", b"405"),
            (b"nonsense\r\n\r\n", b"400"),
            (b"GET /metrics HTTP/1.1\r\nno colon\r\n\r\n", b"400"),
            (b"GET / HTTP/1.1\r\nX: " + b"y" * 100_000 + b"\r\n\r\n", b"431"),
        ],
    )
    def test_wrong_requests_are_refused_and_the_next_is_served(self, sent: bytes, status: bytes) -> None:
        with serving() as running:
            assert running.talk(sent).split()[1] == status
            assert running.get().status == 200

    def test_a_refused_client_that_still_sends_reads_its_answer(self) -> None:
        with serving() as running, running.connect() as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nX: " + b"y" * 20_000)
            received = connection.recv(65536)  # the server has answered
            for _ in range(20):
                connection.sendall(b"y" * 10_000)
            while part := connection.recv(65536):
                received += part
        assert received.split()[1] == b"431"


class TestDeadline:
    """How long a scrape may take."""

    @pytest.mark.parametrize(
        ("header", "seconds"),
        [
            ("10", 9.5),
            ("10.000000", 9.5),
            ("0.5", 0.25),
            ("", 9.5),
            ("nan", 9.5),
            ("-1", 9.5),
            ("1e9", 9.5),
            ("x", 9.5),
        ],
    )
    def test_it_is_what_prometheus_waits_less_the_way(self, header: str, seconds: float) -> None:
        request = Request("GET", "/metrics", {"x-prometheus-scrape-timeout-seconds": header}, keep_alive=True)
        assert scrape_seconds(request) == seconds

    def test_a_scrape_is_told_it(self) -> None:
        with serving() as running:
            running.get(X_Prometheus_Scrape_Timeout_Seconds="3")
        assert 2.0 < running.asked[0] <= 2.5

    def test_more_scrapes_than_threads_are_answered_in_time_or_told_off(self) -> None:
        go_on = threading.Event()

        def slow(_seconds: float) -> bytes:
            go_on.wait(60)
            return PAGE

        with serving(scrape=slow) as running:
            clients = [running.connect() for _ in range(10)]
            for client in clients:
                client.sendall(b"GET /metrics HTTP/1.1\r\nX-Prometheus-Scrape-Timeout-Seconds: 1\r\n\r\n")
            time.sleep(2)  # the deadline passes, of those that run and of those that wait for a thread
            go_on.set()
            statuses = [int(client.recv(65536).split()[1]) for client in clients]
            for client in clients:
                client.close()
        assert sorted(statuses) == [200] * 4 + [503] * 6


def _no_deadlines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the server wait for slow clients far longer than a test's own client waits for its answer."""
    for name in ("HEAD_SECONDS", "TAKE_SECONDS"):
        monkeypatch.setattr(web_server, name, 600.0)


class TestRudeClients:
    def test_idle_and_slow_clients_do_not_hold_up_a_scrape(self, monkeypatch: pytest.MonkeyPatch) -> None:
        _no_deadlines(monkeypatch)  # a scrape that they held up would be held up for good
        big = b"x" * 200_000
        with serving(scrape=lambda _: big) as running:
            idle = running.connect()
            slow = [running.connect() for _ in range(50)]
            for number, connection in enumerate(slow):
                if number % 2:
                    connection.sendall(b"GET /metrics HTTP/1.1\r\nX-Slow")  # and never the rest
                else:
                    connection.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")  # and never takes the answer
            for _ in range(10):
                assert running.get().body == big
            for connection in (idle, *slow):
                connection.close()

    def test_more_connections_than_there_is_room_for_end_the_oldest(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(web_server, "MOST_CONNECTIONS", 20)
        with serving() as running:
            silent = [running.connect() for _ in range(40)]
            assert running.get().status == 200
            assert silent[0].recv(1) == b""
            for connection in silent:
                connection.close()

    def test_a_silent_client_is_let_go(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(web_server, "HEAD_SECONDS", 0.2)
        with serving() as running, running.connect() as silent:
            assert silent.recv(1) == b""

    def test_one_who_does_not_take_the_answer_is_let_go(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(web_server, "TAKE_SECONDS", 0.2)
        ended = threading.Event()
        with serving(scrape=lambda _: b"x" * 50_000_000) as running, running.connect() as client:
            client.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
            client.recv(1)
            threading.Timer(1.0, ended.set).start()
            ended.wait()
            received = 0
            with suppress(ConnectionResetError):
                while part := client.recv(1 << 20):
                    received += len(part)
        assert received < 50_000_000


def test_a_head_with_two_lengths_is_refused() -> None:
    with pytest.raises(BadRequestError, match="Content-Length stands twice"):
        parse_head(b"GET / HTTP/1.1\r\nContent-Length: 5\r\ncontent-length: 0\r\n\r\n")


@given(st.binary(max_size=300))
def test_no_bytes_break_the_parser(raw: bytes) -> None:
    try:
        request = parse_head(raw + b"\r\n\r\n")
    except BadRequestError:
        return
    assert all(name == name.lower() for name in request.headers)


@given(st.binary(max_size=100))
def test_no_bytes_break_basic_authentication(raw: bytes) -> None:
    parse_basic(raw.decode("latin-1"))
    parse_basic("Basic " + raw.decode("latin-1"))
    parse_basic("Basic " + base64.b64encode(raw).decode())


@pytest.mark.parametrize(
    ("header", "gzipped"),
    [("gzip", True), ("deflate, gzip;q=0.5", True), ("gzip;q=0", False), ("", False), ("br", False), ("*", True)],
)
def test_compression_is_for_who_takes_it(header: str, gzipped: bool) -> None:
    assert accepts_gzip(Request("GET", "/", {"accept-encoding": header}, keep_alive=True)) is gzipped


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority, a server's and a client's certificate, made by openssl."""
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True, timeout=60)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=authority", "-days", "2",
            "-addext", "keyUsage=critical,keyCertSign")  # fmt: skip
    for name, san in (("server", "IP:127.0.0.1"), ("client", "DNS:prometheus.example")):
        openssl(
            "req",
            *key,
            "-keyout",
            f"{name}.key",
            "-out",
            f"{name}.csr",
            "-subj",
            f"/CN={name}",
        )
        (folder / "extensions").write_text(f"subjectAltName={san}\nauthorityKeyIdentifier=keyid\n")
        openssl(
            "x509",
            "-req",
            "-in",
            f"{name}.csr",
            "-CA",
            "ca.crt",
            "-CAkey",
            "ca.key",
            "-CAcreateserial",
            "-extfile",
            "extensions",
            "-out",
            f"{name}.crt",
            "-days",
            "2",
        )
    return folder


def client_context(certificates: Path, *, with_certificate: bool = False) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(certificates / "ca.crt"))
    if with_certificate:
        context.load_cert_chain(certificates / "client.crt", certificates / "client.key")
    return context


def write(folder: Path, text: str) -> Path:
    path = folder / "web.yml"
    path.write_text(text)
    path.chmod(0o600)
    return path


TLS = "tls_server_config:\n  cert_file: {0}/server.crt\n  key_file: {0}/server.key\n"
MUTUAL = TLS + "  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: {0}/ca.crt\n"
SECRET = bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()
OTHER = bcrypt.hashpw(b"other", bcrypt.gensalt(4)).decode()


class TestTls:
    def test_it_is_spoken(self, certificates: Path, tmp_path: Path) -> None:
        with serving(write(tmp_path, TLS.format(certificates))) as running:
            assert running.get(tls=client_context(certificates)).status == 200

    def test_a_renewed_certificate_is_taken(self, certificates: Path, tmp_path: Path) -> None:
        (tmp_path / "server.crt").write_bytes((certificates / "server.crt").read_bytes())
        shutil.copy(certificates / "server.key", tmp_path)
        config = write(tmp_path, "tls_server_config: {cert_file: server.crt, key_file: server.key}\n")
        anybody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        anybody.check_hostname, anybody.verify_mode = False, ssl.CERT_NONE

        def shown(port: int) -> str:
            with anybody.wrap_socket(socket.create_connection(("127.0.0.1", port), timeout=10)) as connection:
                return ssl.DER_cert_to_PEM_cert(connection.getpeercert(binary_form=True) or b"")

        with serving(config) as running:
            assert shown(running.port).split() == (certificates / "server.crt").read_text().split()
            for kind in ("key", "crt"):
                _replace(tmp_path / f"server.{kind}", (certificates / f"client.{kind}").read_text())
            assert shown(running.port).split() == (certificates / "client.crt").read_text().split()

    def test_idle_connections_do_not_hold_it_up(
        self, certificates: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What blocks prometheus_client's own server: a handshake that never begins."""
        _no_deadlines(monkeypatch)
        with serving(write(tmp_path, TLS.format(certificates))) as running:
            silent = [running.connect() for _ in range(51)]
            assert running.get(tls=client_context(certificates)).status == 200
            for connection in silent:
                connection.close()

    def test_old_versions_are_refused(self, certificates: Path, tmp_path: Path) -> None:
        context = client_context(certificates)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        with (
            serving(write(tmp_path, TLS.format(certificates) + "  min_version: TLS13\n")) as running,
            pytest.raises(ssl.SSLError),
        ):
            running.get(tls=context)

    def test_mutual(self, certificates: Path, tmp_path: Path) -> None:
        with serving(write(tmp_path, MUTUAL.format(certificates))) as running:
            assert running.get(tls=client_context(certificates, with_certificate=True)).status == 200
            with pytest.raises((ssl.SSLError, ConnectionError, http.client.HTTPException)):
                running.get(tls=client_context(certificates))

    @pytest.mark.parametrize(("san", "welcome"), [("prometheus.example", True), ("another.example", False)])
    def test_only_allowed_names(self, certificates: Path, tmp_path: Path, san: str, welcome: bool) -> None:
        config = write(tmp_path, MUTUAL.format(certificates) + f"  client_allowed_sans: [{san}]\n")
        with serving(config) as running:
            context = client_context(certificates, with_certificate=True)
            if welcome:
                assert running.get(tls=context).status == 200
            else:
                with pytest.raises((ConnectionError, http.client.HTTPException)):
                    running.get(tls=context)


class TestUsers:
    @pytest.mark.parametrize(
        ("authorization", "status"),
        [
            (basic("prometheus", "secret"), 200),
            (basic("prometheus", "wrong"), 401),
            (basic("nobody", "secret"), 401),
            ("", 401),
            ("Bearer secret", 401),
            ("Basic ???", 401),
        ],
    )
    def test_who_may_come_in(self, tmp_path: Path, authorization: str, status: int) -> None:
        with serving(write(tmp_path, f"basic_auth_users:\n  prometheus: {SECRET}\n")) as running:
            for _ in range(2):  # the second time from memory
                assert running.get(Authorization=authorization).status == status
            assert running.get("/", Authorization=authorization).status == status

    def test_guessers_do_not_keep_out_who_has_been_let_in(self, tmp_path: Path) -> None:
        slow = bcrypt.hashpw(b"secret", bcrypt.gensalt(12)).decode()
        with serving(write(tmp_path, f"basic_auth_users:\n  prometheus: {slow}\n")) as running:
            known = basic("prometheus", "secret")
            assert running.get(Authorization=known).status == 200
            guesses: list[int] = []

            def guess(number: int) -> None:
                guesses.append(running.get(Authorization=basic("prometheus", str(number))).status)

            threads = [threading.Thread(target=guess, args=(number,)) for number in range(30)]
            for thread in threads:
                thread.start()
            assert running.get(Authorization=known).status == 200
            assert guesses.count(401) < 8  # of the sixteen guesses that are verified: it has not waited for its turn
            for thread in threads:
                thread.join()
        assert set(guesses) == {401, 503}

    def test_a_changed_file_counts_from_the_next_request(self, tmp_path: Path) -> None:
        config = write(tmp_path, f"basic_auth_users:\n  prometheus: {SECRET}\n")
        with serving(config) as running:
            assert running.get(Authorization=basic("prometheus", "secret")).status == 200
            _replace(config, f"basic_auth_users:\n  prometheus: {OTHER}\n")
            assert running.get(Authorization=basic("prometheus", "secret")).status == 401
            assert running.get(Authorization=basic("prometheus", "other")).status == 200

    def test_a_reload_takes_the_changed_file(self, tmp_path: Path) -> None:
        config = write(tmp_path, "http_server_config:\n  headers:\n    X-Frame-Options: deny\n")
        with serving(config) as running:
            _replace(config, "http_server_config:\n  headers:\n    X-Frame-Options: sameorigin\n")
            answer = running.talk(b"POST /-/reload HTTP/1.1\r\nConnection: close\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
            assert b"X-Frame-Options: sameorigin\r\n" in answer

    def test_a_file_that_changes_while_it_is_read_is_read_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        config = write(tmp_path, f"basic_auth_users:\n  first: {SECRET}\n")
        watched = Watched(config)
        later = ["second", "third"]

        def load_late(path: Path) -> web_config.WebConfig:
            loaded = load(path)
            if later:
                _replace(config, f"basic_auth_users:\n  {later.pop()}: {SECRET}\n")
            return loaded

        monkeypatch.setattr(web_config, "load", load_late)
        _replace(config, f"basic_auth_users:\n  next: {SECRET}\n")
        assert list(watched.current().users) == ["first"]
        assert list(watched.current().users) == ["first"]
        assert list(watched.current().users) == ["second"]

    def test_a_file_that_breaks_lets_nobody_in_until_it_is_mended(self, tmp_path: Path) -> None:
        good = f"basic_auth_users:\n  prometheus: {SECRET}\n"
        config = write(tmp_path, good)
        with serving(config) as running:
            _replace(config, "basic_auth_users: [\n")
            with pytest.raises((ConnectionError, http.client.HTTPException)):
                running.get(Authorization=basic("prometheus", "secret"))
            _replace(config, good)
            assert running.get(Authorization=basic("prometheus", "secret")).status == 200


def _replace(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    new.write_text(text)
    new.chmod(0o600)
    new.replace(path)


def test_a_rate_limit_is_kept(tmp_path: Path) -> None:
    with serving(write(tmp_path, "rate_limit:\n  interval: 1h\n  burst: 2\n")) as running:
        assert [running.get().status for _ in range(3)] == [200, 200, 429]


def test_configured_headers_are_sent(tmp_path: Path) -> None:
    with serving(
        write(tmp_path, "http_server_config:\n  http2: true\n  headers:\n    X-Frame-Options: deny\n")
    ) as running:
        assert running.get("/").headers["X-Frame-Options"] == "deny"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("tls_server_config: [", "expected YAML, but there is an error in line"),
        ("rate_limit: !!timestamp x", "expected YAML without tags or dates that are none"),
        ('tls_server_config: {cert_file: "\\0"}', "tls_server_config.cert_file: expected a file's path"),
        ('tls_server_config: {cert_file: "\\ud800"}', "tls_server_config.cert_file: expected a file's path"),
        ("basic_auth_users: {yes: HASH}", "basic_auth_users.True: expected a user's name; put it in quotes"),
        ("basic_auth_users: {007: HASH}", "basic_auth_users.7: expected a user's name; put it in quotes"),
        ("rate_limit: {interval: 1s, burst: 1" + 400 * "0" + "}", "rate_limit.burst: expected a whole number"),
        ("rate_limit: {interval: 1" + 400 * "0" + "s}", "rate_limit.interval: expected a duration"),
        ("- a", "the file: expected keys and values"),
        ("tls: {}", "tls: expected one of tls_server_config"),
        ("tls_server_config: {cert_file: x}", "tls_server_config.cert_file: "),
        ("tls_server_config: {cipher_suites: [A]}", "tls_server_config.cipher_suites: expected one of"),
        ("basic_auth_users: {a: plain}", "basic_auth_users.a: expected a bcrypt hash"),
        ("basic_auth_users: [a]", "basic_auth_users: expected keys and values"),
        ("rate_limit: {interval: soon}", "rate_limit.interval: expected a duration"),
        ("rate_limit: {interval: 1s, burst: 0}", "rate_limit.burst: expected a whole number"),
        ("http_server_config: {headers: {Server: x}}", "http_server_config.headers.Server: expected one of"),
        ("http_server_config: {http2: 3}", "http_server_config.http2: expected true or false"),
        (
            "basic_auth_users: {a: HASH}\nbasic_auth_users: {}",
            "basic_auth_users: expected each key once, got it again in line 2 (first in 1)",
        ),
        ("basic_auth_users: {a: HASH, a: HASH}", "basic_auth_users.a: expected each key once"),
        ("rate_limit: {interval: 1h}\n'rate_limit':", "rate_limit: expected each key once"),
        ("basic_auth_users: &a {b: *a, c: 1, c: 2}", "basic_auth_users.c: expected each key once"),
        (f"rate_limit: {{interval: 0x{'f' * 5000}}}", "rate_limit.interval: expected a number of at most 1000"),
        (f"basic_auth_users:\n  ? 0x{'f' * 5000}\n  : HASH", "basic_auth_users: expected a number of at most 1000"),
        ("basic_auth_users: false", "basic_auth_users: expected keys and values"),
        ("basic_auth_users: []", "basic_auth_users: expected keys and values"),
        ("tls_server_config: 0", "tls_server_config: expected keys and values"),
        ("rate_limit: ''", "rate_limit: expected keys and values"),
        ("false", "the file: expected keys and values"),
    ],
)
def test_a_wrong_file_is_refused_with_its_field(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(UsageError) as raised:
        load(write(tmp_path, text.replace("HASH", SECRET)))
    message = str(raised.value)
    assert told in message
    assert "\n" not in message
    assert "plain" not in message.replace("expected", "")


@pytest.mark.parametrize(
    ("extra", "told"),
    [
        ("  min_version: SSL3\n", "tls_server_config.min_version: expected one of TLS10"),
        ("  client_auth_type: RequestClientCert\n", "tls_server_config.client_auth_type: expected one of"),
        (
            "  client_auth_type: RequireAndVerifyClientCert\n",
            "tls_server_config.client_ca_file: expected a file's path",
        ),
        ("  client_auth_type: off\n", "tls_server_config.client_auth_type: expected one of"),
        ("  client_allowed_sans: false\n", "tls_server_config.client_allowed_sans: expected a list of names"),
        ("  client_allowed_sans: [a]\n", "tls_server_config.client_allowed_sans: expected client_auth_type"),
    ],
)
def test_a_tls_section_that_would_be_weaker_than_it_says_is_refused(
    certificates: Path, tmp_path: Path, extra: str, told: str
) -> None:
    with pytest.raises(UsageError) as raised:
        load(write(tmp_path, TLS.format(certificates) + extra))
    assert told in str(raised.value)


def test_a_key_that_does_not_fit_is_refused(certificates: Path, tmp_path: Path) -> None:
    text = TLS.format(certificates).replace("server.key", "client.key")
    with pytest.raises(UsageError, match="expected a certificate and its key"):
        load(write(tmp_path, text))
