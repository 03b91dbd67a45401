"""One bad domain on a real libvirt: names, bytes, locks, and QEMU's program gone. Nothing else goes with it."""

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from exporter.exporter_watch import CPU, Scrape, Watcher
from exporter.test_lab import UP, await_scrape, libvirtd, pid_of, signal_in
from hostile.descriptions import ODD, huge
from virtpoise_balancer.execute.worker import probe
from virtpoise_lab import requirements
from virtpoise_lab.host import Host
from virtpoise_lab.lab import Lab
from virtpoise_lab.model import DomainSpec

pytestmark = [pytest.mark.lab, pytest.mark.second_lab, pytest.mark.hostile]

PORT = 9807
MOST_MIB = 40
NAMES = {f"p{number}" for number in range(1, 6)}
RUNNING = "virtpoise_domain_running"
STALE = ("virtpoise_exporter_stale_domains", 'collector="libvirt"')
HOOK = "#!/bin/sh\ncase $2 in stopped) sleep 20;; esac\n"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    missing = requirements.missing()
    if missing:
        pytest.skip(missing)
    with Lab.up(hosts=1, domains=[DomainSpec(name, "h1", paused=True) for name in sorted(NAMES)]) as running:
        host = running.host("h1")
        flags = ["--path.state=/nonexistent", "--cpu.speed=1", f"--web.listen-address={host.address}:{PORT}"]
        host.popen([sys.executable, "-m", "virtpoise_exporter", *flags], name="exporter")
        await_scrape(host.address, PORT, lambda one: one.domains(CPU) == NAMES)
        yield running


def virsh(host: Host, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
    return host.run(["virsh", "--connect", "qemu:///system", *arguments], check=check, capture_output=True)


def restart_libvirtd(lab: Lab, host: Host) -> None:
    signal_in(lab, "h1", "TERM", libvirtd(lab, "h1"))
    host.disconnect()
    with Watcher(host.address, PORT) as watcher:
        watcher.until(lambda one: one.value(UP) == 0, 20)
    host.start_libvirtd()
    await_scrape(host.address, PORT, lambda one: one.value(UP) == 1)


def complete(one: Scrape) -> bool:
    return one.value(UP) == 1 and one.domains(RUNNING) >= NAMES and one.value(*STALE) == 0


def only_p3_is_stale(one: Scrape) -> bool:
    return one.value(*STALE) == 1 and one.domains("virtpoise_domain_facts_age_seconds") == {"p3"}


@pytest.mark.parametrize("name", ["R&D", "a<b>c", "say 'hi'", "bidi\u202e x", "#1"])
def test_a_domain_with_any_name_has_its_usage(lab: Lab, name: str) -> None:
    host = lab.host("h1")
    xml = virsh(host, "dumpxml", "--inactive", "p1").stdout.decode()
    xml = re.sub(r"<uuid>.*?</uuid>|<mac [^>]*>", "", xml)
    escaped = name.replace("&", "&amp;").replace("<", "&lt;")
    host.run(["tee", "/run/odd.xml"], input=xml.replace("<name>p1<", f"<name>{escaped}<").encode(), capture_output=True)
    virsh(host, "define", "/run/odd.xml")
    try:
        virsh(host, "start", "--paused", name)
        await_scrape(host.address, PORT, lambda one: name in one.domains(CPU))
    finally:
        virsh(host, "destroy", name)
        virsh(host, "undefine", name)


@pytest.mark.parametrize("title", ["bad \udcff title", "x\ufffey", "x\x1b[2Jy"])
def test_a_title_of_any_bytes_hides_no_domain(lab: Lab, title: str) -> None:
    """A lone surrogate stands for the byte 0xff, which Python passes on."""
    host = lab.host("h1")
    with Watcher(host.address, PORT) as watcher:
        virsh(host, "desc", "p2", "--live", "--title", title)
        watcher.for_scrapes(20)
        virsh(host, "desc", "p2", "--live", "--title", "good")
    assert all(complete(one) for one in watcher.scrapes)
    assert all("p2" in one.domains("virtpoise_domain_vcpus") for one in watcher.scrapes)


@contextmanager
def started(host: Host, name: str, metadata: str) -> Iterator[None]:
    """A domain with this metadata, as its owner may define it."""
    xml = re.sub(r"<uuid>.*?</uuid>|<mac [^>]*>", "", virsh(host, "dumpxml", "--inactive", "p1").stdout.decode())
    xml = xml.replace("<name>p1<", f"<name>{name}<").replace("<memory ", f"<metadata>{metadata}</metadata><memory ", 1)
    document = f"<!DOCTYPE domain [<!ENTITY foo 'bar'>]>{xml}"
    host.run(["tee", "/run/odd.xml"], input=document.encode(), stdout=subprocess.DEVNULL)
    virsh(host, "define", "/run/odd.xml")
    try:
        virsh(host, "start", "--paused", name)
        yield
    finally:
        virsh(host, "destroy", name, check=False)
        virsh(host, "undefine", name)


def asked_by_the_balancer(host: Host) -> dict[str, list[str]]:
    """By name, what holds the host's domains, as a worker of the balancer reads it."""
    found = probe.facts(host.connection()).domains
    return {one.name: [bound.why for bound in one.bound] for one in found}


@pytest.mark.parametrize("kind", [kind for kind in ODD if "entity" not in kind])  # with one libvirt starts no domain
def test_metadata_that_expat_refuses_hides_neither_its_domain_nor_its_host(lab: Lab, kind: str) -> None:
    host = lab.host("h1")
    own = "<p:placement xmlns:p='urn:virtpoise:1'><apart>db</apart></p:placement>"
    with started(host, "odd", f"<o:other xmlns:o='urn:other'>{ODD[kind]}</o:other>{own}"):
        await_scrape(
            host.address,
            PORT,
            lambda one: (
                {"odd", *NAMES} <= one.domains("virtpoise_domain_vcpus")
                and one.domains("virtpoise_domain_placement") == {"odd"}
            ),
        )
        virsh(host, "resume", "odd")
        assert asked_by_the_balancer(host) == {"odd": []}


def test_megabytes_of_metadata_cost_little_and_hide_no_other_domain(lab: Lab) -> None:
    """libvirt indents what it writes, so that this comes near the 4 MiB of its messages."""
    host = lab.host("h1")
    metadata = huge("attributes").partition("<metadata>")[2]
    before = memory_of_exporter(host)
    with started(host, "huge", metadata[: 3 * 2**19].rpartition("<")[0] + "</x:m>"):
        await_scrape(host.address, PORT, lambda one: {"huge", *NAMES} <= one.domains("virtpoise_domain_vcpus"))
        virsh(host, "resume", "huge")
        assert len(host.connection().lookupByName("huge").XMLDesc()) > 2 * 2**20
        assert asked_by_the_balancer(host) == {"huge": []}
    after = memory_of_exporter(host)
    print(f"the exporter's most memory: {before} MiB before, {after} MiB after")
    assert after - before < MOST_MIB


def memory_of_exporter(host: Host) -> int:
    """The most memory that it had, in MiB."""
    found = host.run(["pgrep", "-f", "virtpoise_exporter"], capture_output=True, text=True).stdout.split()
    status = host.run(["cat", f"/proc/{found[0]}/status"], capture_output=True, text=True).stdout
    return int(re.findall(r"VmHWM:\s*(\d+)", status)[0]) // 1024


def test_a_slow_hook_of_one_domain_hides_no_other(lab: Lab) -> None:
    host = lab.host("h1")
    host.run(["mkdir", "-p", "/etc/libvirt/hooks"])
    host.run(["tee", "/etc/libvirt/hooks/qemu"], input=HOOK.encode(), capture_output=True)
    host.run(["chmod", "+x", "/etc/libvirt/hooks/qemu"])
    restart_libvirtd(lab, host)  # it looks for hooks at its start
    destroying = threading.Thread(target=lambda: virsh(host, "destroy", "p3"))
    try:
        with Watcher(host.address, PORT) as watcher:
            watcher.until(complete)
            destroying.start()
            watcher.until(only_p3_is_stale, 20)
            destroying.join()
            watcher.until(complete)
    finally:
        host.run(["rm", "-f", "/etc/libvirt/hooks/qemu"])
        virsh(host, "start", "--paused", "p3", check=False)
    for one in watcher.scrapes:
        assert one.value(UP) == 1
        assert one.domains(RUNNING) >= NAMES - {"p3"}


def test_a_qemu_that_does_not_end_hides_no_other_domain(lab: Lab) -> None:
    host, process = lab.host("h1"), pid_of(lab, "h1", "p4")
    signal_in(lab, "h1", "STOP", process)
    with Watcher(host.address, PORT) as watcher:
        virsh(host, "destroy", "p4")  # some 12 s: SIGTERM, and SIGKILL at last
        watcher.for_scrapes(5)
    virsh(host, "start", "--paused", "p4")
    for one in watcher.scrapes:
        assert one.value(UP) == 1
        assert one.domains(RUNNING) >= NAMES - {"p4"}


def test_a_host_whose_qemu_is_gone_for_the_moment_is_not_down(lab: Lab) -> None:
    """As while its package is upgraded. The domains run on; libvirt cannot say the hypervisor's version."""
    host = lab.host("h1")
    hide = "for f in /usr/bin/qemu-system-*; do mount --bind /dev/null $f; done; rm -rf /var/cache/libvirt/qemu/cap*"
    host.run(["sh", "-c", hide])
    try:
        restart_libvirtd(lab, host)
        assert virsh(host, "version", check=False).returncode != 0
        with Watcher(host.address, PORT) as watcher:
            watcher.until(complete)
    finally:
        host.run(["sh", "-c", "for f in /usr/bin/qemu-system-*; do umount $f; done"])
