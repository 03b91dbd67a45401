"""Nothing of the machines is left, however the process that made them ends."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from virtpoise_lab.machines.room import BRIDGE, FOLDER, Room
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
inside = subprocess.Popen(room.grouped(room.command(["sleep", "600"]), "one"))
time.sleep(1)
print(inside.pid, flush=True)
time.sleep(600)
"""


def groups(maker: int) -> list[Path]:
    """The control groups of the rooms that a process has made."""
    return sorted(Path("/sys/fs/cgroup").glob(f"**/virtpoise-machines-{maker}-*"))


def test_a_killed_process_leaves_no_process_no_mount_and_no_link() -> None:
    own = groups(os.getpid())  # of machines that other tests use
    with subprocess.Popen([sys.executable, "-c", MAKER], stdout=subprocess.PIPE, text=True) as maker:
        assert maker.stdout is not None
        inside = process(int(maker.stdout.readline()))
        assert inside.alive()
        maker.send_signal(signal.SIGKILL)
    wait_until(lambda: not inside.alive(), 10, "the process in the room ends")
    assert str(FOLDER) not in Path("/proc/self/mountinfo").read_text()
    assert BRIDGE not in [link.name for link in Path("/sys/class/net").iterdir()]
    # What a killed one leaves of control groups the next room takes away.
    assert groups(maker.pid)
    with Room() as room:
        room.run("true")
        assert len(groups(os.getpid())) > len(own)
    assert not groups(maker.pid)
    assert groups(os.getpid()) == own


@pytest.mark.skipif(not Path("/sys/fs/cgroup/cpu/cpu.shares").exists(), reason="control groups of version 1 only")
def test_machines_weigh_more_than_a_busy_program_beside_them() -> None:
    with Room():
        weights = [
            int((group / "cpu.shares").read_text()) for group in groups(os.getpid()) if group.parent.name == "cpu"
        ]
    assert weights
    assert all(weight >= 10 * 1024 for weight in weights)  # one busy program has 1024
