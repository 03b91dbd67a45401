"""What is shipped around the exporter, and the exporter as a service: readiness, watchdog, a clean end."""

import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from exporter.lint import PROMTOOL, complaints

ROOT = Path(__file__).parents[2]


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """The sample web configuration beside the certificates that it names."""
    shutil.copy(ROOT / "exporter" / "web.example.yml", tmp_path / "web.yml")
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "exporter.key"]
    command = ["openssl", "req", "-x509", *key, "-out", "exporter.crt", "-subj", "/CN=x", "-days", "2"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=60)
    shutil.copy(tmp_path / "exporter.crt", tmp_path / "authority.crt")
    (tmp_path / "web.yml").chmod(0o640)
    return tmp_path / "web.yml"


def test_the_sample_web_configuration_is_taken(example: Path) -> None:
    from virtpoise_exporter.web.config import load

    config = load(example)
    assert config.tls is not None
    assert list(config.users) == ["prometheus"]


@pytest.mark.skipif(not PROMTOOL.exists(), reason="promtool is not installed")
def test_promtool_takes_it_too(example: Path) -> None:
    checked = subprocess.run(
        [PROMTOOL, "check", "web-config", str(example)], capture_output=True, text=True, timeout=60
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    text = (ROOT / "exporter" / "virtpoise-exporter.service").read_text()
    unit = tmp_path / "virtpoise-exporter.service"
    unit.write_text(text.replace("/opt/virtpoise/bin/virtpoise-exporter", "/bin/true"))
    checked = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, timeout=60)
    complaints = [line for line in checked.stderr.splitlines() if unit.name in line]
    assert complaints == []


def test_systemd_is_told_when_it_is_ready_that_it_lives_and_that_it_ends(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told, socket.create_server(("127.0.0.1", 0)) as free:
        told.bind(path)
        told.settimeout(30)
        port = free.getsockname()[1]
        free.close()
        flags = ["--libvirt.uri=test:///default", "--cpu.speed=1", f"--web.listen-address=127.0.0.1:{port}"]
        environment = {**os.environ, "NOTIFY_SOCKET": path, "WATCHDOG_USEC": "200000"}
        with subprocess.Popen(
            [sys.executable, "-m", "virtpoise_exporter", *flags], env=environment, stderr=subprocess.PIPE, text=True
        ) as exporter:
            messages = {told.recv(100) for _ in range(4)}
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            connection.request("GET", "/metrics")
            page = connection.getresponse().read()
            connection.close()
            exporter.send_signal(signal.SIGTERM)
            while told.recv(100) != b"STOPPING=1":
                pass
            errors = last_words(exporter)
    assert messages == {b"READY=1", b"WATCHDOG=1"}
    assert b"\nvirtpoise_libvirt_up 1\n" in page
    assert b'virtpoise_domain_info{domain="test",uuid=' in page
    assert exporter.returncode == 0
    assert "Traceback" not in errors


@contextmanager
def started(*flags: str, **environment: str) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """An exporter that has opened its port, which it says; what it says next is on its standard error."""
    command = [sys.executable, "-m", "virtpoise_exporter", "--web.listen-address=127.0.0.1:0", "--cpu.speed=1", *flags]
    with subprocess.Popen(command, env={**os.environ, **environment}, stderr=subprocess.PIPE, text=True) as exporter:
        assert exporter.stderr is not None
        try:
            line = exporter.stderr.readline()
            yield int(line.rpartition("port ")[2].strip('"\n')), exporter
        finally:
            exporter.kill()


def last_words(exporter: subprocess.Popen[str]) -> str:
    """What it logs until its end. ``communicate`` would lose what came together with the first line."""
    assert exporter.stderr is not None
    errors = exporter.stderr.read()
    exporter.wait(20)
    return errors


def fetch(port: int) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", "/metrics")
    page = connection.getresponse().read()
    connection.close()
    return page


@pytest.mark.skipif(not PROMTOOL.exists(), reason="promtool is not installed")
def test_promtool_finds_nothing_to_complain_of_in_what_is_served() -> None:
    with started("--libvirt.uri=test:///default") as (port, _exporter):
        page = fetch(port)
    assert complaints(page) == []


def test_a_missing_notify_socket_is_logged_and_done_without() -> None:
    with started("--libvirt.uri=test:///default", NOTIFY_SOCKET="/nonexistent") as (port, exporter):
        assert b"\nvirtpoise_libvirt_up 1\n" in fetch(port)
        exporter.send_signal(signal.SIGTERM)
        errors = last_words(exporter)
    assert exporter.returncode == 0
    assert "state READY=1 cannot be sent to systemd at NOTIFY_SOCKET /nonexistent: No such file or directory" in errors
    assert "Traceback" not in errors


def test_an_interrupt_while_libvirt_is_waited_for_ends_it_in_silence() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        started(f"--libvirt.uri=qemu+tcp://127.0.0.1:{silent.getsockname()[1]}/system") as (_port, exporter),
    ):
        silent.accept()[0].close()  # libvirt is being asked, so the flags are read
        exporter.send_signal(signal.SIGINT)
        errors = last_words(exporter)
    assert exporter.returncode in (0, 130)
    assert "Traceback" not in errors


def test_the_source_is_logged_at_start() -> None:
    with started("--libvirt.uri=test:///default") as (port, exporter):
        fetch(port)
        exporter.send_signal(signal.SIGTERM)
        errors = last_words(exporter)
    assert "the domains' usage is read from source libvirt: libvirt is on another machine" in errors
