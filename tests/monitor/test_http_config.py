"""How the balancer authenticates at Prometheus: the keys of http_config against real servers, with TLS at both ends."""

from __future__ import annotations

import http.server
import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from filled_prometheus import prometheus_server
from virtpoise_balancer.config import check_secrets, parse_config
from virtpoise_balancer.errors import BadInput, MonitorBadReply, MonitorError
from virtpoise_balancer.monitor.client import PrometheusClient


def make_certificate(folder: Path, name: str) -> tuple[Path, Path]:
    cert, key = folder / f"{name}.pem", folder / f"{name}-key.pem"
    subprocess.run(
        f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN={name} -days 2 "
        f"-addext subjectAltName=DNS:{name} -out {cert} -keyout {key}".split(),
        check=True,
        capture_output=True,
    )
    key.chmod(0o600)
    return cert, key


@contextmanager
def serving() -> Iterator[tuple[int, list[dict[str, str]]]]:
    """A server that answers every query with nothing: its port, and the received headers with the requested target."""
    seen: list[dict[str, str]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            seen.append({name.lower(): value for name, value in self.headers.items()} | {"target": self.path})
            body = json.dumps({"status": "success", "data": {"resultType": "vector", "result": []}}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server.server_address[1], seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def ask(url: str, keys: str) -> None:
    config = parse_config(f"prometheus: {{url: '{url}', timeout_seconds: 3, {keys}}}", "config")
    client = PrometheusClient(url=config.prometheus.url, timeout_seconds=3, access=config.prometheus.access())
    try:
        client.instant("up", 0)
    finally:
        client.close()


def secret(folder: Path, content: str) -> Path:
    path = folder / "secret"
    path.write_text(content)
    path.chmod(0o600)
    return path


@pytest.mark.parametrize(
    ("keys", "sent"),
    [
        ("token_file: {}", "Bearer hunter2"),
        ("http_config: {{authorization: {{credentials_file: {}}}}}", "Bearer hunter2"),
        ("http_config: {{authorization: {{type: Token, credentials_file: {}}}}}", "Token hunter2"),
        ("http_config: {{basic_auth: {{username: alice, password_file: {}}}}}", "Basic YWxpY2U6aHVudGVyMg=="),
    ],
)
def test_credentials_come_from_a_file(tmp_path: Path, keys: str, sent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login mallory password other\n")
    with serving() as (port, seen):
        ask(f"http://127.0.0.1:{port}", keys.format(secret(tmp_path, "hunter2\n")))
    assert seen[0]["authorization"] == sent


def test_headers_and_a_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    headers = f"http_headers: {{X-Scope-OrgID: {{values: [team]}}, X-Key: {{files: [{secret(tmp_path, 'hunter2')}]}}}}"
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")  # is not used
    with serving() as (port, seen):
        ask(f"http://127.0.0.1:{port}", f"http_config: {{{headers}}}")
        ask("http://prometheus.invalid:9090", f"http_config: {{proxy_url: 'http://127.0.0.1:{port}'}}")
    assert (seen[0]["x-scope-orgid"], seen[0]["x-key"]) == ("team", "hunter2")
    assert seen[1]["target"] == "http://prometheus.invalid:9090/api/v1/query"


def test_both_ends_of_tls_prove_themselves(tmp_path: Path) -> None:
    cert, key = make_certificate(tmp_path, "prometheus.example")
    mine, my_key = make_certificate(tmp_path, "balancer.example")
    other, _ = make_certificate(tmp_path, "other.example")
    web_config = tmp_path / "web.yml"
    web_config.write_text(
        f"tls_server_config: {{cert_file: {cert}, key_file: {key}, client_ca_file: {mine}, "
        "client_auth_type: RequireAndVerifyClientCert}"
    )
    client = f"cert_file: {mine}, key_file: {my_key}"
    with prometheus_server(tmp_path, f"--web.config.file={web_config}") as address:
        url = f"https://{address}"
        ask(url, f"http_config: {{tls_config: {{ca_file: {cert}, server_name: prometheus.example, {client}}}}}")
        for keys in (
            f"server_name: prometheus.example, {client}",  # signed by an unknown authority
            f"ca_file: {other}, server_name: prometheus.example, {client}",
            f"ca_file: {cert}, server_name: other.example, {client}",
            f"ca_file: {cert}, {client}",  # the certificate is not for 127.0.0.1
            f"ca_file: {cert}, server_name: prometheus.example",  # without the client's certificate
        ):
            with pytest.raises(MonitorError):
                ask(url, f"http_config: {{tls_config: {{{keys}}}}}")
        my_key.chmod(0o644)
        with pytest.raises(MonitorBadReply, match=r"tls_config\.key_file: .*other users may read it"):
            ask(url, f"http_config: {{tls_config: {{ca_file: {cert}, server_name: prometheus.example, {client}}}}}")


@pytest.mark.parametrize(
    "text",
    [
        "prometheus: {url: 'http://alice:hunter2@h:9090'}",
        "prometheus: {url: 'alice:hunter2@h:9090'}",
        "prometheus: {url: 'http://h:9090/?token=hunter2'}",
        "prometheus: {http_config: {proxy_url: 'http://alice:hunter2@h'}}",
        "prometheus: {http_config: {basic_auth: {username: alice, password: hunter2}}}",
        "prometheus: {http_config: {authorization: {credentials: hunter2}}}",
        "prometheus: {http_config: {http_headers: {X-Key: {secrets: [hunter2]}}}}",
        "web: {external_url: 'https://alice:hunter2@h'}",
        "libvirt: {uri: 'qemu+ssh://alice:hunter2@{host}/system'}",
        "libvirt: {hosts: {h1: 'qemu+ssh://alice:hun/hunter2@h/system'}}",
        "state: {url: 'postgresql://alice:hunter2@h/db'}",
        "prometheus: {http_config: {basic_auth: hunter2}}",
        "prometheus: {http_config: {authorization: 'Bearer hunter2'}}",
        "prometheus: {http_config: {authorization: [hunter2]}}",
        "prometheus: {http_config: {http_headers: {X-Key: hunter2}}}",
        "prometheus: {http_config: {http_headers: {X-Key: {values: ['hunter2\u0001']}}}}",
        "prometheus: {http_config: {tls_config: {key_file: {key: hunter2}}}}",
        "web: {token_file: [hunter2]}",
        "state: {password_file: {alice: hunter2}}",
        "state: hunter2",
        "web: [{token: hunter2}]",
        "hunter2",
        "[hunter2]",
        "web: {token: *hunter2}",
        "web: {token: !hunter2 x}",
        "web: {token: !!int hunter2}",
    ],
)
def test_a_secret_in_the_configuration_is_refused_and_not_shown(text: str) -> None:
    with pytest.raises(BadInput) as refused:
        parse_config(text, "config")
    assert "hunter2" not in str(refused.value)
    assert str(refused.value).count("\n") == 0


def test_secret_files_are_checked_before_the_start(tmp_path: Path) -> None:
    path = secret(tmp_path, "hunter2")
    config = parse_config(
        f"prometheus: {{http_config: {{basic_auth: {{username: a, password_file: {path}}}}}}}", "config"
    )
    check_secrets(config)
    path.chmod(0o644)
    with pytest.raises(BadInput, match=r"^prometheus\.http_config\.basic_auth\.password_file: .*others|other users"):
        check_secrets(config)
