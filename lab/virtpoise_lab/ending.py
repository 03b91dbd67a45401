"""Whether a lab is alive, and how it is ended, however much of it is still there."""

import shutil
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from virtpoise_lab import artefacts, cgroups, folders, processes, requirements, state
from virtpoise_lab.cgroups import Group
from virtpoise_lab.errors import LabError
from virtpoise_lab.state import State

MANAGER_LINK = "virtpoise0"
# The groups beside those of the hosts: what keeps the lab up, and what was started on the manager's side.
BASE, MANAGER = "base", "manager"


def alive(now: State) -> bool:
    """Whether everything that a lab needs to be one still runs: every host, its libvirtd, and what carries them."""
    needed = [host.init for host in now.hosts]
    needed += [p.process for p in now.processes if p.name in ("lxcfs", "switch", "libvirtd", "procstat")]
    return now.complete and len(needed) == 3 * len(now.hosts) + 2 and all(process.alive() for process in needed)


def down() -> bool:
    """Ends what a lab has started, however much of it is still there; False if there was none."""
    requirements.check()
    with state.locked(artefacts.CACHE):
        now = state.read()
        if now is None:
            return False
        clean_up(now)
        return True


def clean_up(now: State) -> None:
    mounts = cgroups.mounted()
    groups = {group.name: group for group in cgroups.groups(mounts)}
    manager = groups.pop(MANAGER, None)
    base = groups.pop(BASE, None)
    if manager:
        manager.signal(signal.SIGTERM)
    with ThreadPoolExecutor(16) as pool:  # each takes its time: its guests' network devices go one after the other
        list(pool.map(Group.kill, groups.values()))
    if manager:
        with suppress(LabError):  # they had the time to end in order
            processes.wait_until(lambda: not manager.pids(), 2, "the manager's side")
        manager.kill()
    _unmount()
    if base:
        base.kill()
    subprocess.run(["ip", "link", "del", MANAGER_LINK], capture_output=True, check=False)
    cgroups.remove_all(mounts)
    folders.release(map(Path, now.folders_made), state.NAME)
    processes.wait_until(_folder_removed, 10, f"removal of {state.FOLDER}")


def _folder_removed() -> bool:
    """Whether the lab's folder is gone, after an attempt to remove it.

    A lab that was killed while it started may have mounted something after the mounts were listed.
    """
    _unmount()
    shutil.rmtree(state.FOLDER, ignore_errors=True)
    return not state.FOLDER.exists()


def _unmount() -> None:
    for mount in _mounted_below(state.FOLDER):
        subprocess.run(["umount", "--lazy", mount], capture_output=True, check=False)


def _mounted_below(folder: Path) -> list[str]:
    places = (line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines())
    return [place for place in places if Path(place).is_relative_to(folder)]
