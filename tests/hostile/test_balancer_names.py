"""Names that a terminal obeys or that turn a line around: in the commands' output, in the log and on the page."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from virtpoise_balancer.errors import BadInput, VirtpoiseError
from virtpoise_balancer.formats import read_snapshot
from virtpoise_balancer.secret_files import read_secret
from virtpoise_balancer.service import logs
from virtpoise_balancer.visible import visible, visible_json

pytestmark = pytest.mark.hostile

ESCAPE, CSI, RIGHT_TO_LEFT, ZERO_WIDTH, TAG = "\x1b]0;owned\x07", "\x9b31m", "\u202e", "\u200b", "\U000e0041"
NAME = f"vm{ESCAPE}{CSI}{RIGHT_TO_LEFT}{ZERO_WIDTH}{TAG}[red]x[/red]:smile:\nforged"
SHOWN = r"vm\x1b]0;owned\x07\x9b31m\u202e\u200b\U000e0041[red]x[/red]:smile:\nforged"
OBEYED = ("\x1b]", "\x07", "\x9b", RIGHT_TO_LEFT, ZERO_WIDTH, TAG)


def test_what_cannot_be_seen_is_shown_as_an_escape_and_the_rest_as_it_is() -> None:
    assert visible(NAME) == SHOWN
    assert visible("Größe 数 ✓ é") == "Größe 数 ✓ é"


@given(st.text())
def test_nothing_that_is_shown_is_obeyed_and_json_still_says_the_same(text: str) -> None:
    assert all(one.isprintable() or (one.isspace() and one == " ") or ord(one) >= 0xA0 for one in visible(text))
    document = json.dumps({"name": text.encode("utf-8", "replace").decode()}, ensure_ascii=False)
    assert json.loads(visible_json(document)) == json.loads(document)
    assert visible(visible_json(document)) == visible_json(document)


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    common = {"memory_bytes": 1 << 30, "vcpus": 1, "state": "running", "cpu_cores": 0.5}
    found = {
        "format": "virtpoise/snapshot/1",
        "time": 1000.0,
        "step_seconds": 10,
        "hosts": [
            {"name": name, "state": "active", "cpus": 4, "cpu_ratio": [load] * 3, "memory_bytes": 1 << 33}
            | {"memory_used_bytes": 1 << 30}
            for name, load in (("h1", 0.95), ("h2", 0.1))
        ],
        "domains": [{"name": NAME, "uuid": "u1", "host": "h1", **common}],
    }
    path = tmp_path / "cluster.json"
    path.write_text(json.dumps(found))
    read_snapshot(path.read_text(), "the test's own")
    return path


@pytest.mark.parametrize(
    "command", [["plan"], ["explain", "u1"], ["explain", NAME], ["plan", "-o", "json"], ["explain", "no" + NAME]]
)
def test_commands_show_escapes(snapshot: Path, command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "virtpoise_balancer", *command, "--snapshot", snapshot],
        capture_output=True,
        text=True,
        env=os.environ | {"FORCE_COLOR": "1", "COLUMNS": "300", "PYTHONIOENCODING": "utf-8"},
    )
    printed = done.stdout + done.stderr
    assert "owned" in printed
    assert [one for one in OBEYED if one in printed] == []
    assert "[red]x[/red]:smile:" in printed


@pytest.mark.parametrize("style", ["logfmt", "json"])
def test_the_log_shows_escapes_on_one_line(monkeypatch: pytest.MonkeyPatch, style: str) -> None:
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    logs.set_up("info", style)  # type: ignore[arg-type]
    structlog.get_logger().info(f"about {NAME}", domain=NAME, domains=[NAME], why=VirtpoiseError(NAME))
    structlog.reset_defaults()
    (line,) = written.getvalue().splitlines()
    assert [one for one in OBEYED if one in line] == []
    assert line.count("owned") == 4


def test_what_a_library_logs_is_one_line_with_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    """As urllib3 does of headers that Prometheus' place sent, with the traceback."""
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    monkeypatch.setattr(logging.root, "handlers", [])
    logs.set_up("info", "logfmt")
    structlog.reset_defaults()
    logging.getLogger("urllib3").warning("Failed to parse headers: %s", NAME, exc_info=ValueError(NAME))
    (line,) = written.getvalue().splitlines()
    assert [one for one in OBEYED if one in line] == []
    assert line.count("owned") == 2


def test_a_secret_is_read_from_a_file_that_only_its_reader_controls(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    folder.mkdir(mode=0o700)
    path = folder / "token"
    path.write_text("secret")

    def fault(said: str) -> None:
        with pytest.raises(BadInput) as refused:
            read_secret(path, "web.token_file")
        assert str(refused.value).startswith(f"web.token_file: {path}: {said}")
        assert "\n" not in str(refused.value)

    path.chmod(0o600)
    assert read_secret(path, "web.token_file") == "secret"
    path.chmod(0o640)
    assert read_secret(path, "web.token_file") == "secret"
    path.chmod(0o644)
    fault("other users may read it; chmod o-rwx")
    path.chmod(0o600)
    folder.chmod(0o777)
    fault(f"other users may write to its folder; chmod o-w {folder}")
    folder.chmod(0o700)
    path.unlink()
    fault("cannot be read: No such file or directory")
    os.mkfifo(path, 0o600)
    fault("expected a regular file")  # and does not wait for a writer
    path.unlink()
    path.symlink_to("/dev/zero")
    fault("expected a regular file")
    path.unlink()
    path.write_bytes(b"x" * (2 << 20))
    path.chmod(0o600)
    fault("expected at most 1048576 bytes")


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files away")
def test_root_takes_no_secret_that_another_user_placed_in_a_shared_folder(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    path = shared / "token"
    path.write_text("secret")
    path.chmod(0o600)
    assert read_secret(path, "web.token_file") == "secret"
    os.chown(path, 65534, 65534)
    with pytest.raises(BadInput, match=r"another user \(uid \d+\) may replace"):
        read_secret(path, "web.token_file")


def test_each_folder_on_the_way_to_a_secret_counts_also_by_way_of_a_link(tmp_path: Path) -> None:
    shared, secrets = tmp_path / "shared", tmp_path / "secrets"
    shared.mkdir()
    secrets.mkdir(0o700)
    path = secrets / "token"
    path.write_text("secret")
    path.chmod(0o600)
    (shared / "token").symlink_to(path)
    (tmp_path / "there").symlink_to(shared)
    (shared / "round").symlink_to("round")
    for named in (shared / "token", tmp_path / "there" / "token", shared / ".." / "shared" / "token"):
        shared.chmod(0o755)
        assert read_secret(named, "web.token_file") == "secret"
        shared.chmod(0o777)
        with pytest.raises(BadInput, match=f"other users may write to its folder; chmod o-w {shared}"):
            read_secret(named, "web.token_file")
    with pytest.raises(BadInput, match="Too many levels of symbolic links"):
        read_secret(shared / "round", "web.token_file")
    tmp_path.chmod(0o777)
    with pytest.raises(BadInput, match=f"other users may write to its folder; chmod o-w {tmp_path}$"):
        read_secret(path, "web.token_file")


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_a_secret_that_a_group_of_others_may_read_is_refused() -> None:
    code = (
        "import os, sys, pathlib\nfrom virtpoise_balancer.secret_files import read_secret\n"
        "os.setgroups([]); os.setgid(12345); os.setuid(12345)\n"
        "print(read_secret(pathlib.Path(sys.argv[1]), 'web.token_file'))"
    )
    with tempfile.TemporaryDirectory(dir="/var/lib") as name:
        folder = Path(name)
        folder.chmod(0o755)
        path = folder / "token"
        path.write_text("secret")
        path.chmod(0o640)

        def told(group: int) -> str:
            os.chown(path, 12345, group)
            done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
            return (done.stdout + done.stderr).splitlines()[-1]

        assert told(12345) == "secret"
        assert told(100).endswith("a group that its reader is not in may read it (gid 100); chmod g-r")


def test_a_key_with_a_passphrase_is_refused_and_nobody_is_asked_for_it(tmp_path: Path) -> None:
    """On a terminal OpenSSL asks, and waits: a daemon that reads its certificate again would stand still."""
    new = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-passout", "pass:secret")
    made = ("-subj", "/CN=x", "-keyout", "x.key", "-out", "x.pem")
    subprocess.run(["openssl", *new, *made], cwd=tmp_path, check=True, capture_output=True)
    script = (
        "import fcntl, termios; from pathlib import Path; fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
        "from virtpoise_balancer.secret_files import load_certificate\n"
        f"load_certificate(Path('{tmp_path}/x.pem'), Path('{tmp_path}/x.key'), 'web')"
    )
    terminal, theirs = os.openpty()
    child = subprocess.Popen(
        [sys.executable, "-c", script], stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    said = b""
    with suppress(OSError):  # no program has the terminal open any more
        while more := os.read(terminal, 4096):
            said += more
            if b"pass phrase" in said:
                child.kill()
    os.close(terminal)
    child.wait()
    assert b"expected a certificate and its key without a passphrase" in said
    assert b"pass phrase" not in said
