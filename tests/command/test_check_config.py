"""`virtpoise check-config` looks as the user that the balancer runs as."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can check as another user")


def check(file: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "virtpoise_balancer", "check-config", str(file), *more],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


@pytest.fixture
def config(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A configuration whose state belongs to the user `nobody`, in a folder that everybody may enter."""
    folder = Path("/run") / tmp_path_factory.mktemp("virtpoise").name
    folder.mkdir()
    folder.chmod(0o755)
    state = folder / "state"
    state.mkdir()
    shutil.chown(state, "nobody")
    file = folder / "virtpoise.yml"
    file.write_text(f"state: {{url: 'sqlite:///{state}/virtpoise.db'}}\n")
    yield file
    shutil.rmtree(folder)


def with_file(config: Path, key: str, mode: int, text: str = "alice:0123456789abcdef0123\n") -> Path:
    path = config.with_name(key)
    path.write_text(text)
    path.chmod(mode)
    section, name = key.split(".")
    config.write_text(config.read_text() + f"{section}: {{{name}: {path}}}\n")
    return path


def test_root_checks_as_the_owner_of_the_state_and_says_so(config: Path) -> None:
    assert check(config).stdout == f"{config}: good for the user nobody (mode recommend, strategy default).\n"
    assert check(config, "--user", "root").stdout.startswith(f"{config}: good for the user root ")


@pytest.mark.parametrize("key", ["web.token_file", "prometheus.token_file", "prometheus.ca_file"])
def test_a_file_that_only_root_reads_is_named(config: Path, key: str) -> None:
    path = with_file(config, key, 0o600)
    ran = check(config)
    assert ran.returncode == 2
    assert len(ran.stderr.splitlines()) == 1
    assert f"{key}: {path}: cannot be read: Permission denied" in ran.stderr
    assert "(checked as the user nobody)" in ran.stderr
    assert check(config, "--user", "root").returncode == 0


def test_a_state_that_the_user_cannot_write_to_is_named(config: Path) -> None:
    ran = check(config, "--user", "daemon")
    assert ran.returncode == 2
    assert f"state.url: {config.with_name('state')}: cannot be written to (checked as the user daemon)" in ran.stderr


def test_a_configuration_that_only_root_reads_is_refused(config: Path) -> None:
    config.chmod(0o600)
    assert f"{config}: cannot be read: Permission denied (checked as the user nobody)" in check(config).stderr


def test_credentials_are_there_only_while_the_service_runs(config: Path) -> None:
    folder = "/run/credentials/no-such.service"
    config.write_text(config.read_text() + f"web: {{cert_file: {folder}/cert.pem, key_file: {folder}/key.pem}}\n")
    ran = check(config)
    assert ran.returncode == 0, ran.stderr
    assert f"{folder}/key.pem: not checked, systemd puts it there when it starts the service.\n" in ran.stdout


def test_doctor_asked_by_root_says_that_the_balancer_is_another_user_and_makes_no_store(config: Path) -> None:
    config.write_text(config.read_text() + "prometheus: {url: 'http://127.0.0.1:1'}\n")
    ran = subprocess.run(
        [sys.executable, "-m", "virtpoise_balancer", "doctor", "--config", str(config), "--output", "json"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    (found,) = [one for one in json.loads(ran.stdout) if one["subject"] == "user"]
    assert (found["verdict"], found["remedy"]) == ("warning", "runuser -u nobody -- virtpoise doctor")
    assert list(config.with_name("state").iterdir()) == []


def test_a_user_there_is_not_is_refused(config: Path) -> None:
    assert "--user nosuchuser: no such user on this machine" in check(config, "--user", "nosuchuser").stderr
