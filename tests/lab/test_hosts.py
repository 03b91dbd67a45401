"""A running lab: what its hosts see, what its guests do, and how they move."""

import json
import subprocess
import sys
import time

import pytest

from lab.lab_watch import cpu_over, cpu_times, memory
from virtpoise_lab.errors import LabError
from virtpoise_lab.lab import Lab
from virtpoise_lab.processes import wait_until

pytestmark = pytest.mark.lab

MIB = 1 << 20


def test_a_host_sees_only_its_own_cpu(lab: Lab) -> None:
    burner = lab.host("h1").popen(["sh", "-c", "while :; do :; done"])
    busy, other = cpu_over(lab.host("h1"), 2).wanted, cpu_over(lab.host("h2"), 1).used
    lab.stop("sh", "h1")

    assert burner.wait(5) != 0
    assert busy > 0.9
    assert other < 0.3
    assert lab.host("h1").run(["nproc"], capture_output=True, text=True).stdout == "1\n"


def test_cpu_time_that_another_program_takes_is_steal_of_that_host_alone(lab: Lab) -> None:
    """A real-time program, which no weight holds back, has the CPU of h1 for a second in which h1 wants it."""
    cpu = lab.host("h1").group.cpu()
    take = (
        "import os, time\n"
        f"os.sched_setaffinity(0, {{{cpu}}})\n"
        "os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))\n"
        "end = time.monotonic() + 1\n"
        "while time.monotonic() < end: pass\n"
    )
    lab.host("h1").popen(["sh", "-c", "while :; do :; done"])
    before = {name: cpu_times(lab.host(name)) for name in ("h1", "h2")}
    subprocess.run([sys.executable, "-c", take], check=True)
    after = {name: cpu_times(lab.host(name)) for name in ("h1", "h2")}
    lab.stop("sh", "h1")

    stolen = {name: after[name].stolen - before[name].stolen for name in before}
    assert 90 <= stolen["h1"] <= after["h1"].total - before["h1"].total
    assert stolen["h2"] < 20
    assert after["h1"].idle - before["h1"].idle < 20


def test_a_host_sees_only_its_own_memory(lab: Lab) -> None:
    before = {name: memory(lab.host(name)) for name in ("h1", "h2")}
    take = "import sys; b = bytearray(200 << 20); print('taken', flush=True); sys.stdin.read()"
    with lab.host("h1").popen([sys.executable, "-c", take], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as taker:
        assert taker.stdout is not None
        assert taker.stdout.readline() == b"taken\n"
        after = {name: memory(lab.host(name)) for name in ("h1", "h2")}

    used = {name: before[name]["MemAvailable"] - after[name]["MemAvailable"] for name in before}
    assert before["h1"]["MemTotal"] == before["h2"]["MemTotal"] == 1024 * MIB
    assert 190 * MIB < used["h1"] < 260 * MIB
    assert used["h2"] < 20 * MIB


def test_a_host_sees_only_its_own_processes_and_network(lab: Lab) -> None:
    guests = {
        name: lab.host(name).run(["pgrep", "--full", "--count", "guest=vm"], capture_output=True, text=True).stdout
        for name in ("h1", "h2")
    }
    links = lab.host("h2").run(["ls", "/sys/class/net"], capture_output=True, text=True).stdout.split()
    ports = lab.host("h2").run(["ls", "/sys/class/net/br0/brif"], capture_output=True, text=True).stdout.split()

    assert guests == {"h1": "2\n", "h2": "1\n"}
    assert links == ["br0", "eth0", "lo", "vnet0"]
    assert ports == ["eth0", "vnet0"]


@pytest.mark.parametrize("percent", [30, 70])
def test_a_share_is_what_the_host_measures(lab: Lab, percent: float) -> None:
    lab.load("vm1", percent, kind="share")
    wanted = cpu_over(lab.host("h1"), 4).wanted
    lab.load("vm1", 0)

    assert wanted == pytest.approx(percent / 100, abs=0.04)


@pytest.mark.parametrize(
    ("domain", "percent", "tolerance"),
    [
        ("vm1", 40, 0.04),
        ("vm3", 70, 0.08),  # two vCPUs on one CPU: switching between them costs on top
    ],
)
def test_work_is_what_the_host_measures(lab: Lab, domain: str, percent: float, tolerance: float) -> None:
    lab.load(domain, percent, kind="work")
    where = lab.where(domain)
    assert where is not None
    measured = cpu_over(lab.host(where), 4).used
    lab.load(domain, 0, kind="share")

    assert measured == pytest.approx(percent / 100, abs=tolerance)


def test_what_is_not_said_of_a_load_stays_as_it_was(lab: Lab) -> None:
    lab.load("vm2", 10, dirty=5, traffic=1)
    load = lab.load("vm2", 20)
    lab.load("vm2", 0, dirty=0, traffic=0)

    assert (load.cpu, load.dirty, load.traffic) == (20, 5, 1)


def test_work_is_caught_up_and_a_share_is_not(lab: Lab) -> None:
    """The other guest wants all of the one CPU they share, so a guest that wants 70 % does not get it; then the CPU is
    its own.
    """
    left = {}
    try:
        for kind in ("work", "share"):
            lab.load("vm1", 70, kind=kind)
            lab.load("vm2", 100, kind="work")
            assert cpu_over(lab.host("h1"), 5).wanted > 0.95
            lab.load("vm2", 0)
            left[kind] = cpu_over(lab.host("h1"), 1.5).used
    finally:
        for domain in ("vm1", "vm2"):
            lab.load(domain, 0, kind="share")

    assert left["work"] > 0.85
    assert left["share"] < 0.8


def test_traffic_leaves_through_the_hosts_uplink(lab: Lab) -> None:
    def sent() -> int:
        path = "/sys/class/net/eth0/statistics/tx_bytes"
        return int(lab.host("h1").run(["cat", path], capture_output=True, text=True).stdout)

    lab.load("vm1", 0, traffic=2)
    began, before = time.monotonic(), sent()
    time.sleep(3)  # a rate is measured over a time
    rate = (sent() - before) / (time.monotonic() - began)
    lab.load("vm1", 0, traffic=0)

    assert 1.7e6 < rate < 3e6


def test_a_domain_takes_its_load_along_and_a_new_one_where_it_goes(lab: Lab) -> None:
    def settles_at(ratio: float) -> None:
        """The work of the migration itself, and of translating the guest's code again, ends within seconds."""
        wait_until(lambda: abs(cpu_over(lab.host("h2"), 2).used - ratio) < 0.06, 20, f"a load of {ratio} on h2")

    lab.load("vm1", 40, kind="work")
    try:
        assert lab.migrate("vm1", "h2") == "h1"
        assert lab.where("vm1") == "h2"
        assert lab.host("h1").connection().listDefinedDomains() == []
        settles_at(0.40)
        lab.load("vm1", 10)
        settles_at(0.10)
    finally:
        lab.load("vm1", 0, kind="share")
        lab.migrate("vm1", "h1")


def test_a_command_runs_in_a_host_and_its_exit_status_comes_back(lab: Lab) -> None:
    command = [sys.executable, "-m", "virtpoise_lab", "exec", "h2", "--", "sh", "-c", "hostname; exit 7"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)

    assert (result.stdout, result.returncode) == ("h2\n", 7)


def test_status_says_what_is_where(lab: Lab) -> None:
    command = [sys.executable, "-m", "virtpoise_lab", "status", "--output", "json"]
    status = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    assert status["acceleration"] in ("kvm", "tcg")
    assert {d["name"]: d["host"] for d in status["domains"]} == {"vm1": "h1", "vm2": "h1", "vm3": "h2"}
    assert [host["uri"] for host in status["hosts"]] == ["qemu+tcp://10.77.0.1/system", "qemu+tcp://10.77.0.2/system"]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["load", "vm9", "50"], "lab: no domain 'vm9' in the lab: there are vm1, vm2, vm3\n"),
        (["load", "vm1", "170"], "lab: domain vm1: CPU load 170: expected 0 to 100 percent\n"),
        (["migrate", "vm1", "h1"], "lab: domain vm1 runs on h1 already\n"),
        (["migrate", "vm1", "h7"], "lab: no host 'h7' in the lab: there are h1, h2\n"),
        (["up"], "lab: a lab is up already: `down` ends it, `up --replace` puts a new one in its place\n"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(lab: Lab, arguments: list[str], line: str) -> None:
    command = [sys.executable, "-m", "virtpoise_lab", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)

    assert (result.stderr, result.returncode) == (line, 2)


def test_a_guest_that_does_not_answer_is_no_load_taken(lab: Lab) -> None:
    paused = lab.host("h1").connection().lookupByName("vm2")
    paused.suspend()
    try:
        with pytest.raises(LabError, match="domain vm2: the guest did not take its load within 1 s"):
            lab.load("vm2", 50, seconds=1)
    finally:
        paused.resume()
    assert lab.state.domain("vm2").load.cpu == 0


def test_a_host_joins_and_guests_move_to_it(lab: Lab) -> None:
    """The last test of this lab: with a third host, each has a smaller part of the CPUs."""
    lab.load("vm2", 50, kind="work")
    joined = lab.add_host()
    assert (joined.name, joined.uri) == ("h3", "qemu+tcp://10.77.0.3/system")
    for name, other in (("h1", "h3"), ("h3", "h2")):
        answer = lab.host(name).run(["getent", "hosts", other], capture_output=True, text=True).stdout
        assert answer.split() == [lab.host(other).address, other]

    lab.migrate("vm2", "h3")
    assert lab.where("vm2") == "h3"
    assert cpu_over(joined, 4).used == pytest.approx(0.5, abs=0.1)
