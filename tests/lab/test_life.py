"""How a lab begins and ends, also when it was not given the time to end well."""

import signal
import subprocess
import sys

import pytest

from lab.lab_watch import names_of, namespaces_of, namespaces_there, processes_of, traces
from virtpoise_lab import ending, state
from virtpoise_lab.errors import LabError
from virtpoise_lab.lab import Lab
from virtpoise_lab.model import DomainSpec
from virtpoise_lab.processes import process, wait_until

pytestmark = [pytest.mark.lab, pytest.mark.second_lab, pytest.mark.usefixtures("machine")]

COMMAND = [sys.executable, "-m", "virtpoise_lab"]


def test_down_leaves_nothing() -> None:
    before = traces()
    lab = Lab.up(hosts=2, domains=[DomainSpec("vm1"), DomainSpec("vm2")])
    lab.spawn(["sleep", "1000"])
    lab.host("h2").popen(["sh", "-c", "sleep 1000 & sleep 1000"])
    started = processes_of(lab)
    namespaces = namespaces_of(started)
    assert len(started) > 10
    assert len(namespaces) == 3  # two hosts and the switch between them

    lab.down()

    assert [process for process in started if process.alive()] == []
    assert traces() == before
    wait_until(lambda: not namespaces & namespaces_there(), 5, "the end of the network namespaces")
    assert ending.down() is False  # a second time there is nothing to do


def test_a_lab_in_which_a_libvirtd_died_has_crashed_and_the_next_one_replaces_it() -> None:
    before = traces()
    subprocess.run([*COMMAND, "up", "--hosts", "1", "--domains", "1"], stdout=subprocess.DEVNULL, check=True)
    started = processes_of(Lab.attach())
    victim = next(process for process, name in names_of(started).items() if name == "libvirtd")
    victim.signal(signal.SIGKILL)
    wait_until(lambda: not victim.alive(), 5, "the end of libvirtd")
    wait_until(lambda: not ending.alive(Lab().state), 5, "a crash that is seen")

    with pytest.raises(LabError, match="the lab has crashed"):
        Lab.attach()
    with Lab.up(hosts=1) as second:
        assert [process for process in started if process.alive()] == []
        assert second.host("h1").connection().numOfDomains() == 0
    assert traces() == before


@pytest.mark.parametrize("victims", ["lxcfs", "bash", "everything"])
def test_down_ends_a_lab_of_which_half_is_dead(victims: str) -> None:
    before = traces()
    lab = Lab.up(hosts=2)
    try:
        started = processes_of(lab)
        for process, name in names_of(started).items():
            if victims in ("everything", name):
                process.signal(signal.SIGKILL)
        result = subprocess.run([*COMMAND, "down"], capture_output=True, text=True, check=True)
    finally:
        lab.down()

    assert result.stdout == "the lab is down\n"
    wait_until(lambda: not any(process.alive() for process in started), 5, "the end of what this test has killed")
    assert traces() == before


def test_an_up_that_was_killed_half_way_is_cleaned_up() -> None:
    before = traces()
    starting = subprocess.Popen([*COMMAND, "up", "--hosts", "2", "--domains", "2"], stdout=subprocess.DEVNULL)
    wait_until((state.FOLDER / "h2").exists, 30, "a host that boots")
    starting.kill()
    starting.wait()

    ending.down()

    assert traces() == before


def test_an_up_that_fails_says_why_in_one_line_and_leaves_nothing() -> None:
    before = traces()
    subprocess.run(["ip", "link", "add", ending.MANAGER_LINK, "type", "bridge"], check=True)
    result = subprocess.run([*COMMAND, "up", "--domains", "2"], capture_output=True, text=True, check=False)

    assert result.returncode == 2
    assert result.stderr.startswith("lab: ip link add virtpoise0")
    assert result.stderr.count("\n") == 1
    assert traces() == before


def test_without_root_one_line_says_so() -> None:
    command = ["setpriv", "--reuid=65534", "--clear-groups", *COMMAND, "up"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)

    assert (result.stderr, result.returncode) == ("lab: the lab makes namespaces and cgroups: run it as root\n", 2)


def test_bulk_mode_starts_domains_that_never_run() -> None:
    subprocess.run([*COMMAND, "up", "--paused-domains", "5"], stdout=subprocess.DEVNULL, check=True)
    lab = Lab.attach()
    try:
        assert lab.host("h1").connection().numOfDomains() == 5
        assert lab.where("vm5") == "h1"
        with pytest.raises(LabError, match="domain vm1 is paused: it takes no load"):
            lab.load("vm1", 10)
    finally:
        lab.down()


def test_a_host_stands_when_all_that_runs_in_it_is_killed() -> None:
    """As in a reboot: its first process and its namespaces stay, and libvirtd starts in them again."""
    with Lab.up(hosts=1) as lab:
        host = lab.host("h1")
        killed = [process(pid) for pid in host.group.pids() if pid != host.init.pid]
        for one in killed:
            one.signal(signal.SIGKILL)
        wait_until(lambda: not any(one.alive() for one in killed), 10, "the end of all that was killed")
        host.disconnect()
        host.start_libvirtd()
        assert host.connection().numOfDomains() == 0
