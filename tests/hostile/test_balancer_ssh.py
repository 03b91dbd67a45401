"""What an ssh may do that libvirt starts for the balancer: here it is a program of the test's."""

from __future__ import annotations

from pathlib import Path

import pytest

from execute.test_workers import gone, wait_until
from virtpoise_balancer.errors import LibvirtError
from virtpoise_balancer.execute.worker.connection import hidden_message
from virtpoise_balancer.execute.workers import Workers

pytestmark = pytest.mark.hostile

ODD = {
    "asks for a password on the terminal": "read password < /dev/tty && exec sleep 600\nexit 255",
    "has an answer without end": "exec yes SSH-2.0-banner",
    "says that the host key has changed": "for n in 1 2 3 4 5 6 7 8; do echo '@@@ WARNING! @@@' >&2; done\nexit 255",
    "says controls and what is not UTF-8": "printf 'a\\033[2J\\r\\342\\200\\256b\\377\\n' >&2\nexit 255",
    "says megabytes": "head -c 8000000 /dev/zero | tr '\\0' x >&2\nexit 255",
    "says something without end": "exec yes error >&2",
}


@pytest.mark.parametrize("what", ODD)
def test_whatever_an_ssh_does_is_one_bounded_line_in_time_and_harms_no_other_host(tmp_path: Path, what: str) -> None:
    program, noted = tmp_path / "ssh", tmp_path / "pid"
    program.write_text(f"#!/bin/sh\necho $$ > {noted}\n{ODD[what]}\n")
    program.chmod(0o755)
    with Workers() as workers:

        def ask(uri: str) -> object:
            return workers.ask(uri, "active_domains", (), connect_seconds=5, seconds=5, what="h1")

        with pytest.raises(LibvirtError) as raised:
            ask(f"qemu+ssh://h1/system?command={program}")
        said = str(raised.value)
        assert "unforeseen" not in said
        assert len(said) < 1200
        assert len(said.splitlines()) == 1
        assert "\033" not in said
        assert ask("test:///default") == 1
    pid = int(noted.read_text())
    wait_until(lambda: gone(pid))


def test_an_error_that_is_not_utf8_is_said_all_the_same() -> None:
    with pytest.raises(UnicodeDecodeError) as raised:
        b"cl\xe9 chang\xe9e\n".decode()
    error = SystemError("returned a result with an exception set")
    error.__cause__ = raised.value  # as Python does where libvirt-python's own error ends in another
    assert hidden_message(error) == "cl\ufffd chang\ufffde"
    assert hidden_message(SystemError("another")) is None
