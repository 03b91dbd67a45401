"""Nothing of the machines is left, however the process that made them ends."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from virtpoise_lab.machines.room import Room
from virtpoise_lab.processes import process, wait_until

pytestmark = [
    pytest.mark.installed,
    pytest.mark.skipif(os.geteuid() != 0, reason="namespaces are made by root"),
]

# Makes a room with a process in a control group of its own, says its number, and waits.
MAKER = """
import subprocess, time
from virtpoise_lab.machines.room import Room
room = Room()
inside = subprocess.Popen(room.command(["sleep", "600"], "one"))
time.sleep(1)
print(inside.pid, flush=True)
time.sleep(600)
"""


def groups() -> list[Path]:
    return list(Path("/sys/fs/cgroup").glob("**/virtpoise-machines-*"))


def test_a_killed_process_leaves_no_process_no_mount_and_no_link() -> None:
    mounts, links = Path("/proc/self/mountinfo").read_text(), sorted(Path("/sys/class/net").iterdir())
    with subprocess.Popen([sys.executable, "-c", MAKER], stdout=subprocess.PIPE, text=True) as maker:
        assert maker.stdout is not None
        inside = process(int(maker.stdout.readline()))
        assert inside.alive()
        maker.send_signal(signal.SIGKILL)
    wait_until(lambda: not inside.alive(), 10, "the process in the room ends")
    assert Path("/proc/self/mountinfo").read_text() == mounts
    assert sorted(Path("/sys/class/net").iterdir()) == links
    # What a killed one leaves of control groups the next room takes away.
    assert any(str(maker.pid) in group.name for group in groups())
    with Room() as room:
        room.run("true")
    assert not any(str(pid) in group.name for group in groups() for pid in (maker.pid, os.getpid()))
