"""The exporter on real hosts: equal numbers from both sources, and every fault that makes other exporters hang."""

import contextlib
import json
import re
import shutil
import socket
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import libvirt
import pytest

from exporter.exporter_watch import CPU, Watcher, hold_to_the_laws, scrape
from virtpoise_lab import requirements
from virtpoise_lab.lab import Lab
from virtpoise_lab.model import DomainSpec, Load

pytestmark = pytest.mark.lab

KERNEL, LIBVIRT = 9807, 9808
PAUSED = tuple(f"p{number}" for number in range(1, 5))
RUNNING = ("vm1", "vm2")
ALL = {*PAUSED, *RUNNING}
UP = "virtpoise_libvirt_up"
RESIDENT = "virtpoise_domain_memory_resident_bytes"
HUGE = "virtpoise_domain_hugepages_bytes"
STALE = ("virtpoise_exporter_stale_domains", 'collector="domains"')


@pytest.fixture(scope="module")
def hidden_proc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A /proc with the host's figures, but without processes."""
    folder = tmp_path_factory.mktemp("proc")
    (folder / "net").mkdir()
    for name in ("stat", "meminfo", "cpuinfo", "net/dev", "net/route"):
        shutil.copyfile(Path("/proc") / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def lab(hidden_proc: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """vm1, vm2 and four paused domains on h1; an exporter on each host, one more on h1 without sight of processes."""
    missing = requirements.missing()
    if missing:
        pytest.skip(missing)
    specs = [
        *(DomainSpec(name, "h1", Load(cpu=15)) for name in RUNNING),
        *(DomainSpec(name, "h1", paused=True) for name in PAUSED),
    ]
    state = tmp_path_factory.mktemp("state")
    with Lab.up(hosts=2, domains=specs) as running:
        for host in running.hosts:
            common = [sys.executable, "-m", "virtpoise_exporter", f"--path.state={state}", "--cpu.speed=1"]
            host.popen([*common, f"--web.listen-address={host.address}:{KERNEL}"], name="exporter")
            if host.name == "h1":
                flags = [f"--web.listen-address={host.address}:{LIBVIRT}", f"--path.procfs={hidden_proc}"]
                host.popen([*common, *flags], name="exporter-libvirt")
        for name, port in (("h1", KERNEL), ("h2", KERNEL), ("h1", LIBVIRT)):
            await_scrape(running.host(name).address, port, lambda one: one.value(UP) == 1)
        await_scrape(running.host("h1").address, LIBVIRT, lambda one: one.domains(CPU) >= ALL)
        yield running


def await_scrape(host: str, port: int, true_of: Callable[[Any], object], seconds: float = 40) -> Any:
    """The first scrape that fulfils a condition."""
    end = time.monotonic() + seconds
    while True:
        try:
            if true_of(found := scrape(host, port)):
                return found
        except OSError:
            pass
        assert time.monotonic() < end, "it never came"
        threading.Event().wait(0.1)


def pid_of(lab: Lab, host: str, domain: str) -> str:
    found = lab.host(host).run(["cat", f"/run/libvirt/qemu/{domain}.pid"], capture_output=True, text=True)
    return str(found.stdout).strip()


def signal_in(lab: Lab, host: str, name: str, *processes: str) -> None:
    lab.host(host).run(["kill", f"-{name}", *processes])


def libvirtd(lab: Lab, host: str) -> str:
    found = lab.host(host).run(["pgrep", "--newest", "-x", "libvirtd"], capture_output=True, text=True)
    return str(found.stdout).split()[0]


COMPARE = """
    import json, time
    from pathlib import Path
    from virtpoise_exporter.kernel.domains import KernelSource
    from virtpoise_exporter.virt import source
    from virtpoise_exporter.virt.link import Link, start_event_loop
    from virtpoise_exporter.virt.stats import Stats

    kernel = KernelSource(Path("/proc"), Path("/run/libvirt/qemu"))
    link = Link("qemu:///system", kernel.follow)
    start_event_loop()
    link.start()
    link.wait_for_first(20)
    asked = source.LibvirtSource(Stats(link).of(source.GROUPS))
    domains = link.inventory().domains
    answers = []
    for _ in range(5):
        for one in (kernel, asked):
            usages = one.read(domains, 10.0)
            answers.append({
                domain.name: [
                    usages[domain.uuid].cpu_seconds,
                    usages[domain.uuid].vcpu_seconds,
                    usages[domain.uuid].cpu_delay_seconds,
                    usages[domain.uuid].resident_bytes,
                    *[[*t.received, *t.sent] for _, t in sorted(usages[domain.uuid].traffic.items())],
                ]
                for domain in domains
            })
        time.sleep(0.3)
    print(json.dumps(answers))
"""


def test_both_sources_tell_the_same(lab: Lab) -> None:
    """What libvirt says lies between what the kernel said before and says after it, to a tick of the clock."""
    ran = lab.host("h1").run(
        [sys.executable, "-c", textwrap.dedent(COMPARE)], capture_output=True, text=True, timeout=60
    )
    answers = json.loads(ran.stdout)
    assert set(answers[0]) == ALL
    for before, asked, after in zip(answers[0::2], answers[1::2], answers[2::2], strict=False):
        for name in ALL:
            low, said, high = before[name], asked[name], after[name]
            assert low[0] - 0.02 <= said[0] <= high[0] + 0.02, "CPU time"
            assert low[1] - 0.03 <= said[1] <= high[1] + 0.03, "vCPU time"
            assert low[2] <= said[2] <= high[2], "run-queue delay"
            assert said[3] == pytest.approx(high[3], rel=0.05), "resident memory"
            for low_traffic, traffic, high_traffic in zip(low[4:], said[4:], high[4:], strict=True):
                for least, said_of_it, most in zip(low_traffic, traffic, high_traffic, strict=True):
                    assert least <= said_of_it <= most, "bytes, packets, errors and drops of both directions"


def test_the_load_of_a_domain_is_its_counters_slope(lab: Lab) -> None:
    lab.load("vm1", 60)
    host = lab.host("h1").address
    first = scrape(host, KERNEL)
    threading.Event().wait(4)
    second = scrape(host, KERNEL)
    lab.load("vm1", 15)
    before, after = first.of(CPU, "vm1"), second.of(CPU, "vm1")
    assert before is not None
    assert after is not None
    slope = (after - before) / (second.at - first.at)
    assert slope == pytest.approx(0.6, abs=0.15)


def test_what_a_running_domain_is_given_as_metadata_is_there_at_once(lab: Lab) -> None:
    """As docs/operating.md tells people to do it; sooner than the next list of all domains would tell."""
    virsh = ["virsh", "--connect", "qemu:///system", "metadata", "vm1", "--live", "--uri", "urn:virtpoise:1"]
    asked = "<placement><apart>db</apart></placement>"
    host = lab.host("h1")
    with Watcher(host.address, KERNEL) as watcher:
        host.run([*virsh, "--key", "virtpoise", "--set", asked], capture_output=True)
        watcher.until(lambda one: one.of("virtpoise_domain_placement", "vm1") == 1, seconds=2)
        host.run([*virsh, "--remove"], capture_output=True)
        watcher.until(lambda one: one.of("virtpoise_domain_placement", "vm1") is None, seconds=2)


def test_it_needs_no_right(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> None:
    """As nobody, without groups and capabilities, over the one socket of the lab's libvirtd without polkit."""
    host, port = lab.host("h1"), 9809
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]
    flags = [
        "--libvirt.uri=qemu+unix:///system?socket=/run/libvirt/libvirt-sock",
        f"--web.listen-address={host.address}:{port}",
        "--path.state=/nonexistent",
        "--cpu.speed=1",
    ]
    host.popen([*nobody, sys.executable, "-m", "virtpoise_exporter", *flags], name="exporter-nobody")
    try:
        await_scrape(host.address, port, lambda one: one.domains(CPU) == ALL)
        one = scrape(host.address, port)
    finally:
        lab.stop("exporter-nobody", "h1")
    assert any(name == "virtpoise_exporter_source_info" and 'source="kernel"' in labels for name, labels in one.samples)
    assert all(value == 1 for (name, _), value in one.samples.items() if name == "virtpoise_exporter_collector_success")
    assert one.domains("virtpoise_domain_cpu_delay_seconds_total") == ALL
    assert one.value(*STALE) == 0


@pytest.mark.parametrize(("port", "others"), [(KERNEL, ALL), (LIBVIRT, ALL - {"vm2"})])
def test_a_stopped_qemu_holds_up_nothing(lab: Lab, port: int, others: set[str]) -> None:
    """Its own figures go on where the kernel tells them; where QEMU would have to be asked, they are left out and
    counted.
    """
    address, process = lab.host("h1").address, pid_of(lab, "h1", "vm2")
    with Watcher(address, port) as watcher:
        watcher.for_scrapes(5)
        signal_in(lab, "h1", "STOP", process)
        try:
            watcher.for_scrapes(30)
        finally:
            signal_in(lab, "h1", "CONT", process)
        watcher.until(lambda one: one.value(*STALE) == 0 and "vm2" in one.domains(CPU))
    hold_to_the_laws(watcher.scrapes, always=others, lasting=ALL)
    for one in watcher.scrapes:
        assert one.value(UP) == 1
        missing = ALL - one.domains(RESIDENT)  # which libvirt has to ask QEMU for; it may tell the rest without
        assert one.value(*STALE) == len(missing)
        assert one.domains("virtpoise_domain_stale_seconds") == missing


def test_three_stopped_qemus_do_not_cost_the_connection(lab: Lab) -> None:
    """Each holds one of the five questions that libvirtd works on at once for one client."""
    stopped, address = PAUSED[:3], lab.host("h1").address
    processes = [pid_of(lab, "h1", domain) for domain in stopped]
    with Watcher(address, LIBVIRT) as watcher:
        signal_in(lab, "h1", "STOP", *processes)
        try:
            began = time.monotonic()
            watcher.until(lambda one: one.at > began + 25, 60)  # longer than a list lasts, and than keepalive waits
            settled = watcher.until(lambda one: one.domains(CPU) >= {*RUNNING})
        finally:
            signal_in(lab, "h1", "CONT", *processes)
        watcher.until(lambda one: one.value(*STALE) == 0 and one.domains(CPU) == ALL)
    hold_to_the_laws(watcher.scrapes, always=(), lasting=ALL)
    assert all(one.value(UP) == 1 for one in watcher.scrapes)
    assert settled.domains("virtpoise_domain_stale_seconds") == ALL - settled.domains(RESIDENT)


def test_libvirtd_that_hangs_is_told_and_the_rest_goes_on(lab: Lab) -> None:
    with Watcher(lab.host("h1").address, KERNEL) as watcher:
        daemon = libvirtd(lab, "h1")
        signal_in(lab, "h1", "STOP", daemon)
        try:
            down = watcher.until(lambda one: one.value(UP) == 0, 15)
        finally:
            signal_in(lab, "h1", "CONT", daemon)
        watcher.until(lambda one: one.value(UP) == 1)
    hold_to_the_laws(watcher.scrapes, always=ALL, lasting=ALL)
    assert down.value("virtpoise_host_cpus") == 1
    assert down.domains("virtpoise_domain_running") == set()  # it has no source now


def test_libvirtd_that_is_stopped_or_killed_and_comes_back_leaves_nothing_open(lab: Lab) -> None:
    address = lab.host("h1").address

    def restart(watcher: Watcher, how: str) -> None:
        signal_in(lab, "h1", how, libvirtd(lab, "h1"))
        lab.host("h1").disconnect()
        watcher.until(lambda one: one.value(UP) == 0, 5)
        lab.host("h1").start_libvirtd()
        watcher.until(lambda one: one.value(UP) == 1)

    def open_in(name: str) -> tuple[int, int]:
        found = lab.host("h1").run(
            ["pgrep", "-f", f"virtpoise_exporter.*{address}:{name}"], capture_output=True, text=True
        )
        process = found.stdout.split()[0]
        counted = lab.host("h1").run(
            ["sh", "-c", f"ls /proc/{process}/fd | wc -l; ls /proc/{process}/task | wc -l"],
            capture_output=True,
            text=True,
        )
        descriptors, threads = counted.stdout.split()
        return int(descriptors), int(threads)

    with Watcher(address, KERNEL) as watcher:
        restart(watcher, "KILL")
        descriptors, threads = open_in(str(KERNEL))
        for how in ("TERM", "KILL", "TERM", "KILL"):
            restart(watcher, how)
        after = open_in(str(KERNEL))
    hold_to_the_laws(watcher.scrapes, always=ALL, lasting=ALL)
    assert after[0] <= descriptors + 1  # a connection of the watcher may be open at the moment
    assert after[1] <= threads


def test_domains_that_come_go_move_and_change_their_names_during_two_hundred_scrapes(lab: Lab) -> None:
    here, there = lab.host("h1"), lab.host("h2")
    watchers = [Watcher(here.address, KERNEL), Watcher(here.address, LIBVIRT), Watcher(there.address, KERNEL)]
    stop = threading.Event()
    failures: list[BaseException] = []

    def churn() -> None:
        connection = libvirt.open(here.uri)
        template = connection.lookupByName("p1").XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
        uuid = connection.lookupByName("p1").UUIDString()
        new = template.replace(f"<uuid>{uuid}</uuid>", "").replace("<name>p1</name>", "<name>c0</name>")
        new = "".join(line + "\n" for line in new.splitlines() if "<mac " not in line)
        number = 0
        try:
            while not stop.is_set():
                domain = connection.defineXML(new.replace("<name>c0</name>", f"<name>c{number}</name>"))
                domain.rename(f'c{number} "ä"')
                domain.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
                domain.resume()
                domain.destroy()
                domain.undefine()
                number += 1
        except BaseException as error:
            failures.append(error)
        finally:
            connection.close()

    churning = threading.Thread(target=churn)
    with watchers[0], watchers[1], watchers[2]:
        churning.start()
        try:
            lab.migrate("vm1", "h2")
            lab.migrate("vm1", "h1")
            for watcher in watchers:
                while len(watcher.scrapes) < 200:
                    watcher.for_scrapes(10)
        finally:
            stop.set()
            churning.join()
        for watcher in watchers[:2]:
            watcher.until(lambda one: one.domains("virtpoise_domain_info") == ALL)
    assert not failures
    staying = ALL - {"vm1"}
    hold_to_the_laws(watchers[0].scrapes, always=staying, lasting=staying, moving={"vm1"})
    hold_to_the_laws(watchers[1].scrapes, always=(), lasting=staying)
    hold_to_the_laws(watchers[2].scrapes, always=(), lasting=(), moving={"vm1"})
    for one in watchers[1].scrapes:  # a domain that libvirt is busy with may be missing, but never silently
        missing = staying - one.domains(RESIDENT)
        assert missing <= one.domains("virtpoise_domain_stale_seconds")
    names = set().union(*(one.domains("virtpoise_domain_info") for one in watchers[0].scrapes))
    assert any(name.startswith("c") for name in names)
    moved = [one.of("virtpoise_domain_running", "vm1") for one in watchers[2].scrapes]
    assert 1 in moved
    assert scrape(here.address, KERNEL).of("virtpoise_domain_running", "vm1") == 1
    assert scrape(there.address, KERNEL).of("virtpoise_domain_running", "vm1") is None


def test_one_idle_and_fifty_slow_clients_hold_up_nothing(lab: Lab) -> None:
    address = lab.host("h1").address, KERNEL
    with contextlib.ExitStack() as clients, Watcher(*address) as watcher:
        _idle, *slow = [clients.enter_context(socket.create_connection(address, 5)) for _ in range(51)]
        for number, client in enumerate(slow):
            client.sendall(b"GET /metrics HTTP/1.1\r\nHost: somebody-slow.example.org\r\n"[: 1 + number])
        watcher.for_scrapes(30)
    hold_to_the_laws(watcher.scrapes, always=ALL, lasting=ALL)


@pytest.fixture
def pool() -> Iterator[None]:
    """32 static huge pages of 2 MiB of this machine, which all its hosts share; skipped where it has none to give."""
    size = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages")
    if not size.exists():
        pytest.skip("the kernel has no huge pages of 2 MiB")
    before = size.read_text()
    try:
        size.write_text(str(int(before) + 32))
        if int(size.read_text()) < int(before) + 32:
            pytest.skip("the machine has no memory for 32 huge pages in one piece")
        yield
    finally:
        size.write_text(before)


def test_a_domain_in_static_huge_pages(lab: Lab, pool: None) -> None:
    """The pool is no available memory, half of it is the domain's, and the domain's own memory lies nowhere else."""
    host, mount = lab.host("h1"), "/run/hugepages"
    host.run(["sh", "-c", f"mkdir -p {mount} && mount -t hugetlbfs -o pagesize=2M hugepages {mount}"], check=True)
    signal_in(lab, "h1", "TERM", libvirtd(lab, "h1"))
    host.disconnect()
    host.start_libvirtd()  # it looks for such mounts when it starts
    connection = libvirt.open(host.uri)
    try:
        xml = connection.lookupByName("p1").XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
        new = "".join(line for line in xml.splitlines() if not any(mark in line for mark in ("<uuid>", "<mac ")))
        new = re.sub(
            r"<memory .*?</memory>\s*<currentMemory .*?</currentMemory>", "<memory unit='MiB'>32</memory>", new
        )
        new = new.replace("<name>p1</name>", "<name>huge</name><memoryBacking><hugepages/></memoryBacking>")
        calm = await_scrape(
            host.address, KERNEL, lambda one: one.value(UP) == 1 and one.domains(CPU) >= set(PAUSED[:3])
        )
        domain = connection.createXML(new.replace("/p1.qmp", "/huge.qmp"), libvirt.VIR_DOMAIN_START_PAUSED)
        try:
            seen = await_scrape(
                host.address, KERNEL, lambda one: one.of(RESIDENT, "huge") and one.of(HUGE, "huge") is not None
            )
        finally:
            domain.destroy()
    finally:
        connection.close()
        host.run(["umount", "-l", mount], check=True)
    mib, free = 1 << 20, ("virtpoise_host_hugepages_free", 'size="2097152",node="0"')
    pool_bytes = seen.value("virtpoise_host_memory_hugepages_bytes")
    assert pool_bytes >= 64 * mib
    assert (
        seen.value("virtpoise_host_memory_available_bytes")
        <= seen.value("virtpoise_host_memory_total_bytes") - pool_bytes
    )
    assert calm.value(*free) - seen.value(*free) == 16
    assert seen.of(HUGE, "huge") == 32 * mib
    assert seen.of("virtpoise_domain_memory_maximum_bytes", "huge") == 32 * mib
    assert seen.of(RESIDENT, "huge") < seen.of(RESIDENT, "p1") + 8 * mib  # as much as QEMU itself


def test_a_qemu_that_dies_is_gone_and_the_others_are_in_every_scrape(lab: Lab) -> None:
    """The last test of this lab: it has a domain less afterwards."""
    with Watcher(lab.host("h1").address, KERNEL) as watcher:
        signal_in(lab, "h1", "KILL", pid_of(lab, "h1", "p4"))
        watcher.until(lambda one: "p4" not in one.domains(CPU) | one.domains("virtpoise_domain_stale_seconds"))
        watcher.for_scrapes(10)
    hold_to_the_laws(watcher.scrapes, always=ALL - {"p4"}, lasting=ALL - {"p4"})
    assert watcher.scrapes[-1].of("virtpoise_domain_running", "p4") in (0, None)
