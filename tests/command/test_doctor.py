"""The doctor: each thing that can be wrong is one line that names it and its remedy."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import libvirt
import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from builders import group, host
from virtpoise_balancer import __version__
from virtpoise_balancer.command.between_hosts import BetweenHosts, judge_pair
from virtpoise_balancer.command.doctor import (
    judge_encryption,
    judge_libvirt,
    judge_locks,
    judge_prometheus,
)
from virtpoise_balancer.command.exporters import judge_exporter, judge_source, judge_uplinks
from virtpoise_balancer.command.finding import Finding, Severity
from virtpoise_balancer.command.main import main
from virtpoise_balancer.config import Config
from virtpoise_balancer.errors import LibvirtError, LibvirtSilent, MonitorError
from virtpoise_balancer.execute.facts import Hardware, HardwareVerdict, HostFacts, Needs, Pool
from virtpoise_balancer.execute.incompatible import HostRecord, judge
from virtpoise_balancer.execute.worker import needs, probe
from virtpoise_balancer.model import Facts, HostState, Unknown, UnknownKind
from virtpoise_balancer.monitor.client import PrometheusClient, QueryAnswer
from virtpoise_balancer.monitor.health import ExporterHealth, PrometheusHealth, exporter_health, prometheus_health
from virtpoise_balancer.monitor.http import Reply
from virtpoise_balancer.monitor.observe import Observation
from virtpoise_balancer.monitor.sources import SOURCES, SourceName
from virtpoise_balancer.monitor.targets import AdmittedTargets, RefusedTarget, RefusedTargets, TargetRefusal

HEALTH = PrometheusHealth(version="3.1.0", ahead_seconds=0.3, errors={"h1": "connection refused"})
EXPORTERS = ExporterHealth(versions={"h1": __version__}, failing={}, ahead_seconds={"h1": 0.1})
PC = Hardware(type="kvm", arch="x86_64", machine="pc-i440fx-10.0", emulator="/usr/bin/kvm", cpu="<cpu/>")
HERE = HostFacts(
    libvirt_version=9_000_000,
    hypervisor_version=7_002_015,
    cpu="<cpu/>",
    devices=frozenset({"br0"}),
    networks=frozenset({"default"}),
    pools={"images": Pool()},
    secrets=frozenset({"client.vms secret"}),
    domains=(
        Needs(
            name="vm1",
            uuid="1",
            hardware=PC,
            disks=("/shared/vm1.qcow2",),
            pools=("images",),
            secrets=("client.vms secret",),
            networks=("default",),
            bridges=("br0",),
        ),
    ),
)
OWN = SOURCES[SourceName.VIRTPOISE]
NAMES = ("h1", "h2", "h3", "h4")
SEEN = Observation(snapshot=group(host("h1", 0.5)), age_seconds=1.0)


def pair(**changes: Any) -> Finding:
    """``verdict``: of the destination on the hardware of the domain."""
    here, there = changes.get("here", HERE), changes.get("there", HERE)
    of_destination = changes.pop("verdict", HardwareVerdict(machine=True, cpu=True))
    records = {
        "h1": HostRecord(at=0.0, facts=here),
        "h2": HostRecord(at=0.0, facts=replace(there, domains=()), verdicts={PC.key: of_destination}),
    }
    given = {
        "here": here,
        "there": there,
        "facts": judge(records),
        "way": None,
        "cpu": True,
        "unseen": (),
        "peer_uri": "qemu+ssh://h2/system",
    } | changes
    return judge_pair("h1", "h2", **given)


def test_a_good_pair_is_one_good_line() -> None:
    found = pair()
    assert (found.subject, found.verdict, found.remedy) == ("h1 → h2", Severity.GOOD, "")


@pytest.mark.parametrize(
    ("changes", "verdict", "says", "remedy"),
    [
        (
            {"way": "unable to connect"},
            Severity.BAD,
            "h1 does not reach h2: unable to connect",
            "on h1, as root: virsh -c qemu+ssh://h2/system list",
        ),
        (
            {"there": replace(HERE, networks=frozenset())},
            Severity.BAD,
            "vm1 needs network default, which is not there",
            "net-define",
        ),
        (
            {"there": replace(HERE, pools={})},
            Severity.BAD,
            "vm1 needs storage pool images, which is not there",
            "pool-start",
        ),
        (
            {"there": replace(HERE, secrets=frozenset())},
            Severity.BAD,
            "vm1 needs secret client.vms secret of a disk, which is not there",
            "secret-set-value",
        ),
        ({"there": replace(HERE, devices=frozenset())}, Severity.BAD, "vm1 needs bridge br0", "make it on h2, too"),
        ({"there": replace(HERE, devices=None)}, Severity.GOOD, "reached", ""),
        (
            {"here": replace(HERE, devices=frozenset()), "there": replace(HERE, devices=frozenset())},
            Severity.GOOD,
            "",
            "",
        ),
        ({"cpu": False}, Severity.WARNING, "h2's CPU lacks what h1's has", "cpu-baseline"),
        (
            {"unseen": ("/local/a",)},
            Severity.WARNING,
            "no storage pool of h2 has /local/a",
            "storage that both hosts share",
        ),
        (
            {"there": replace(HERE, hypervisor_version=7_000_000)},
            Severity.WARNING,
            "the hypervisor is older there (7.0.0, here 7.2.15)",
            "one version",
        ),
        (
            {"there": replace(HERE, libvirt_version=8_000_000)},
            Severity.WARNING,
            "the libvirt is older there (8.0.0, here 9.0.0)",
            "one version",
        ),
        (
            {"verdict": HardwareVerdict(machine=False)},
            Severity.BAD,
            "vm1 needs machine type pc-i440fx-10.0 (kvm, /usr/bin/kvm), which is not there",
            "a newer QEMU on h2",
        ),
        (
            {"verdict": HardwareVerdict(machine=True, cpu=False)},
            Severity.BAD,
            f"vm1 needs CPU None ({PC.key[:6]}), which is not there",
            "cpu-baseline",
        ),
        (
            {
                "here": replace(HERE, domains=(Needs(name="vm1", uuid="1", cpus=(6, 7)),)),
                "there": replace(HERE, cpus=frozenset(range(4))),
            },
            Severity.BAD,
            "vm1 needs CPUs 6-7, which is not there",
            "vcpupin",
        ),
        (
            {"here": replace(HERE, uuid="u1"), "there": replace(HERE, uuid="u1"), "way": "Attempt to migrate"},
            Severity.BAD,
            "both have the uuid u1, so libvirt takes them for one host",
            "host_uuid",
        ),
        ({"here": replace(HERE, uuid="u1"), "there": replace(HERE, uuid="u2")}, Severity.GOOD, "reached", ""),
        (
            {"way": LibvirtError("no domain runs on h1")},
            Severity.NOT_KNOWN,
            "the way is not known: no domain runs on h1",
            "",
        ),
        (
            {"unseen": LibvirtError("h2: no answer within 30 s")},
            Severity.NOT_KNOWN,
            "reached, its storage is not known: h2: no answer within 30 s",
            "",
        ),
    ],
)
def test_what_stands_between_two_hosts(changes: dict[str, object], verdict: Severity, says: str, remedy: str) -> None:
    found = pair(**changes)
    assert (found.verdict, found.text[: len(says)]) == (verdict, says)
    assert remedy in found.remedy


class StopsAnswering:
    """Hosts that note what they do not answer. One of them falls silent when a method is first called for it."""

    def __init__(self, silent: str, at: str) -> None:
        self._silent, self._at, self._stopped = silent, at, False
        self.waited: list[str] = []  # the questions that were not answered

    def _ask(self, what: str, *hosts: str) -> None:
        self._stopped |= what == self._at and self._silent in hosts
        if self._stopped and self._silent in hosts:
            self.waited.append(what)
            raise LibvirtSilent(f"{hosts[0]}: no answer within 1 s")

    def unseen(self, host: str, _paths: object) -> tuple[str, ...]:
        self._ask("unseen", host)
        return ()

    def runs_cpu(self, host: str, _cpu: object) -> bool:
        self._ask("runs_cpu", host)
        return True

    def verdicts(self, host: str, kinds: Sequence[Hardware]) -> tuple[HardwareVerdict, ...]:
        self._ask("verdicts", host)
        return tuple(HardwareVerdict(machine=True, cpu=True) for _ in kinds)

    def reaches(self, host: str, destination: str) -> None:
        self._ask("reaches", host, destination)

    def active_domains(self, host: str) -> int:
        self._ask("active_domains", host)
        return 1


@pytest.mark.parametrize("at", ["verdicts", "unseen", "runs_cpu", "reaches"])
def test_a_host_that_stops_answering_costs_one_deadline_and_the_others_are_judged(at: str) -> None:
    hosts = StopsAnswering("h2", at)
    between = BetweenHosts(hosts=hosts, known=dict.fromkeys(NAMES, HERE), peer_uri_of=str)  # type: ignore[arg-type]
    facts = judge({name: between.record(name) for name in NAMES})
    found = {
        one.subject: one for name in NAMES for one in between.findings(name, [n for n in NAMES if n != name], facts)
    }
    assert len(found) == 12
    for subject, one in found.items():
        if "h2" in subject:
            assert (one.verdict, one.text[:26]) == (Severity.BAD, "h2 has stopped answering: ")
        else:
            assert one.verdict is Severity.GOOD
    # Where one host waits for another, both are asked which of them is silent.
    assert hosts.waited == ([at] if at != "reaches" else [at, "active_domains"])


@pytest.mark.parametrize(
    ("may_abort", "verdict"), [(True, Severity.GOOD), (None, Severity.GOOD), (False, Severity.WARNING)]
)
def test_an_account_that_may_abort_no_migration_is_named(may_abort: bool | None, verdict: Severity) -> None:
    found = judge_libvirt("h1", "qemu+ssh://h1/system", replace(HERE, may_abort=may_abort))
    assert found.verdict is verdict
    assert ("this account may abort no migration" in found.text) is (verdict is Severity.WARNING)
    assert ("domain.write" in found.remedy) is (verdict is Severity.WARNING)


def test_that_qemus_certificates_are_not_known_is_said_where_they_are_required() -> None:
    assert list(judge_encryption("off")) == []
    (found,) = judge_encryption("required")
    assert (found.verdict, "certificates" in found.text, "--tls" in found.remedy) == (Severity.NOT_KNOWN, True, True)


def test_hosts_that_answer_but_do_not_reach_each_other_in_time_are_reported() -> None:
    class Firewall(StopsAnswering):
        def reaches(self, host: str, destination: str) -> None:
            raise LibvirtSilent(f"{host}: no answer within 30 s")

    between = BetweenHosts(hosts=Firewall("", ""), known=dict.fromkeys(NAMES, HERE), peer_uri_of=str)  # type: ignore[arg-type]
    (found,) = between.findings("h1", ["h2"], Facts())
    assert (found.verdict, found.text) == (Severity.BAD, "h1 does not reach h2: h1: no answer within 30 s")


@pytest.mark.parametrize(
    ("state", "exporters", "verdict", "says"),
    [
        (HostState.ACTIVE, EXPORTERS, Severity.GOOD, f"fresh, version {__version__}, the clock agrees"),
        (HostState.UNKNOWN, EXPORTERS, Severity.BAD, "no fresh figures: connection refused"),
        (HostState.ACTIVE, replace(EXPORTERS, failing={"h1": ("libvirt",)}), Severity.BAD, "collectors fail: libvirt"),
        (
            HostState.ACTIVE,
            replace(EXPORTERS, ahead_seconds={"h1": -40.0}),
            Severity.WARNING,
            "fresh, but the host's clock is 40 s behind",
        ),
        (
            HostState.ACTIVE,
            replace(EXPORTERS, versions={"h1": "0.0.9"}),
            Severity.WARNING,
            "fresh, version 0.0.9, but the balancer is",
        ),
        (HostState.ACTIVE, replace(EXPORTERS, versions={}), Severity.GOOD, "fresh figures of another exporter"),
    ],
)
def test_what_an_exporter_lacks(state: HostState, exporters: ExporterHealth, verdict: Severity, says: str) -> None:
    found = judge_exporter(host("h1", 0.5, state=state), HEALTH, exporters, OWN)
    assert (found.subject, found.verdict, found.text[: len(says)]) == ("exporter of h1", verdict, says)
    assert bool(found.remedy) is (verdict is not Severity.GOOD)


def test_the_services_to_look_at_are_those_of_the_source() -> None:
    stale = host("h1", state=HostState.UNKNOWN)
    debian = SOURCES[SourceName.DEBIAN]
    assert "status virtpoise-exporter;" in judge_exporter(stale, HEALTH, EXPORTERS, OWN).remedy
    found = judge_exporter(stale, HEALTH, EXPORTERS, debian)
    assert "status prometheus-node-exporter prometheus-libvirt-exporter;" in found.remedy


def test_what_a_source_does_not_report_is_listed() -> None:
    config = Config.model_validate({"prometheus": {"source": "debian"}})
    seen = replace(SEEN, gaps=tuple(SOURCES[SourceName.DEBIAN].gaps(())))
    found = {one.text.partition(":")[0]: one for one in judge_source(config, seen)}
    assert "how long vCPUs wait for a CPU" in found
    assert "what domains ask for in their metadata" in found
    assert {(one.subject, one.verdict) for one in found.values()} == {("source debian", Severity.NOT_KNOWN)}
    assert not list(judge_source(Config(), SEEN))


def test_why_a_host_is_unknown_is_said_as_it_is() -> None:
    why = Unknown(kind=UnknownKind.TARGETS, text="2 targets of Prometheus claim to be it: h1:1, h1:2")
    found = judge_exporter(host("h1", state=HostState.UNKNOWN, unknown=why), HEALTH, EXPORTERS, OWN)
    assert (found.verdict, found.text) == (Severity.BAD, f"nothing certain is known of the host: {why.text}")
    libvirt = replace(why, kind=UnknownKind.LIBVIRT, text="its exporter does not say whether its libvirt answers")
    failing = replace(EXPORTERS, failing={"h1": ("libvirt",)})
    found = judge_exporter(host("h1", state=HostState.UNKNOWN, unknown=libvirt), HEALTH, failing, OWN)
    assert found.text == "collectors fail: libvirt"


def test_uplinks_of_unknown_use_are_named_with_the_remedy() -> None:
    assert not list(judge_uplinks(host("h1", 0.5)))
    assert not list(judge_uplinks(host("h1", state=HostState.UNKNOWN, rx_ratio=None, tx_ratio=None)))
    (found,) = judge_uplinks(host("h1", 0.5, rx_ratio=None, tx_ratio=None))
    assert (found.subject, found.verdict) == ("uplinks of h1", Severity.NOT_KNOWN)
    assert (found.text, "--network.speed" in found.remedy) == (
        "Prometheus has no speed of them, so their use is unknown",
        True,
    )
    (found,) = judge_uplinks(host("h1", 0.5, tx_ratio=None, uplink_bytes_per_second=125e6))
    assert found.text == "Prometheus has no figures of their traffic, so their use is unknown"
    assert "host_rx_ratio" in found.remedy


def test_a_clock_that_is_off_and_a_prometheus_without_hosts_are_reported() -> None:
    stranger = RefusedTarget(instance="x?netcat=1", reason=TargetRefusal.NOT_A_HOST, why="expected a DNS name")
    refused = RefusedTargets(counts={TargetRefusal.NOT_A_HOST: 1}, named=(stranger,))
    nobody = replace(SEEN, snapshot=group(), warnings=("too many points",), refused=refused)
    found = list(judge_prometheus(Config(), replace(HEALTH, ahead_seconds=-90.0), nobody))
    assert [(one.subject, one.verdict) for one in found] == [
        ("Prometheus", Severity.GOOD),
        ("clock of Prometheus", Severity.BAD),
        ("hosts", Severity.BAD),
        ("target 'x?netcat=1'", Severity.WARNING),
        ("Prometheus", Severity.WARNING),
    ]
    assert found[1].text == "90 s behind this machine's"


def test_disks_that_qemu_does_not_lock_between_hosts_are_named() -> None:
    assert judge_locks("h1", HERE).verdict is Severity.GOOD
    domains = (*HERE.domains, Needs(name="vm2", unlocked=("vda", "vdb")), Needs(name="vm3", unlocked=("vda",)))
    found = judge_locks("h1", replace(HERE, domains=domains))
    assert (found.subject, found.verdict) == ("disk locks of h1", Severity.NOT_KNOWN)
    assert found.text.startswith("QEMU does not lock vda, vdb of vm2 and 1 more domains, and libvirt does not report")
    assert 'lock_manager = "lockd"' in found.remedy


@pytest.mark.parametrize(
    ("disk", "lease", "unlocked"),
    [
        ("<disk type='file' device='disk'>{}</disk>", "", ()),
        ("<disk type='file' device='disk'><shareable/>{}</disk>", "", ("vda",)),
        ("<disk type='block' device='disk'>{}</disk>", "", ("vda",)),
        ("<disk type='block' device='disk'><readonly/>{}</disk>", "", ()),
        ("<disk type='block' device='cdrom'>{}</disk>", "", ()),
        ("<disk type='network' device='lun'>{}</disk>", "", ("vda",)),
        ("<disk type='volume'>{}</disk>", "", ("vda",)),
        ("<disk type='block' device='disk'>{}</disk>", "<lease><key>a</key></lease>", ()),
    ],
)
def test_which_disks_qemu_does_not_lock(disk: str, lease: str, unlocked: tuple[str, ...]) -> None:
    devices = disk.format("<target dev='vda'/>") + lease
    assert needs.needs(f"<domain><name>a</name><devices>{devices}</devices></domain>").unlocked == unlocked


def test_a_libvirt_that_does_not_answer_comes_with_the_command_to_try() -> None:
    found = judge_libvirt("h1", "qemu+ssh://h1/system", "connection refused")
    assert (found.verdict, found.text) == (Severity.BAD, "connection refused")
    assert "virsh -c qemu+ssh://h1/system list" in found.remedy


# --- asked of a daemon that answers as libvirt's does
# -------------------------------------------------------------------


def failed(code: int, text: str) -> libvirt.libvirtError:
    error = libvirt.libvirtError(text)
    error.args = (text,)  # libvirt's own last error, if there was one, would be its text
    error.err = (code, 0, text, 0, "", "", "", 0, 0)
    return error


class Running:
    """Gives its answers in turn, and the last one ever after."""

    def __init__(self, name: str, *answers: libvirt.libvirtError) -> None:
        self._name, self._answers = name, list(answers)
        self.to_change: libvirt.libvirtError | None = None  # what it answers to a change

    def name(self) -> str:
        return self._name

    def XMLDesc(self) -> str:  # noqa: N802
        return f"<domain><name>{self._name}</name>{DEVICES}</domain>"

    def migrateToURI3(self, _uri: str, _params: object, _flags: int) -> None:  # noqa: N802
        raise self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]

    def snapshotNum(self) -> int:  # noqa: N802
        return 0

    def autostart(self) -> int:
        return 1

    def setAutostart(self, autostart: int) -> None:  # noqa: N802
        assert autostart == self.autostart()
        if self.to_change is not None:
            raise self.to_change


DEVICES = """<devices>
  <disk type='file'><source file='/shared/a.qcow2'/></disk>
  <disk type='block'><source dev='/dev/vg/a'/><target dev='vdb'/></disk>
  <disk type='volume'><source pool='images' volume='a'/></disk>
  <disk type='network'>
    <auth username='vms'><secret type='ceph' uuid='2ec115d7'/></auth>
    <source protocol='rbd' name='pool/a'><host name='mon1'/></source>
  </disk>
  <disk type='network'><source protocol='iscsi' name='iqn'><auth><secret type='iscsi' usage='target'/></auth></source></disk>
  <disk type='file' device='cdrom'/>
  <interface type='network'><source network='default' bridge='virbr0'/></interface>
  <interface type='bridge'><source bridge='br0'/></interface>
</devices>"""


class Connection:
    """A daemon whose domains answer to a migration, and whose pools to a path, each with its error."""

    def __init__(self, *domains: Running, pools: libvirt.libvirtError | None = None) -> None:
        self._domains, self._pools = domains, pools

    def listAllDomains(self, _flags: int) -> tuple[Running, ...]:  # noqa: N802
        return self._domains

    def storageVolLookupByPath(self, _path: str) -> None:  # noqa: N802
        if self._pools:
            raise self._pools

    def getCapabilities(self) -> str:  # noqa: N802
        return "<capabilities><host/></capabilities>"

    def getLibVersion(self) -> int:  # noqa: N802
        return 9_000_000

    getVersion = getLibVersion  # noqa: N815

    def listAllDevices(self, _flags: int = 0) -> tuple[()]:  # noqa: N802
        return ()

    def listAllSecrets(self) -> tuple[()]:  # noqa: N802
        return ()

    listAllNetworks = listAllStoragePools = listAllInterfaces = listAllDevices  # noqa: N815
    listAllNWFilters = listAllSecrets  # noqa: N815

    def getCPUMap(self) -> tuple[int, list[bool], int]:  # noqa: N802
        return 2, [True, True], 2


REACHED = failed(libvirt.VIR_ERR_XML_ERROR, "XML error: unexpected root element <virtpoise-doctor>")
BUSY = failed(libvirt.VIR_ERR_OPERATION_INVALID, "domain has an active block job")
UNSAFE = failed(libvirt.VIR_ERR_MIGRATE_UNSAFE, "Unsafe migration: disk without cache=none")
GONE = failed(libvirt.VIR_ERR_OPERATION_FAILED, "Failed to connect to remote libvirt URI qemu+ssh://h2/system")


def reached(*domains: Running) -> tuple[bool, str | None]:
    return probe.reaches(Connection(*domains), "h1", "h2")


def test_a_domain_that_cannot_migrate_says_nothing_of_the_way_so_the_next_is_asked() -> None:
    assert reached(Running("a", BUSY), Running("b", UNSAFE), Running("c", REACHED)) == (True, None)
    asked, why = reached(Running("a", BUSY), Running("c", GONE))
    assert asked
    assert "Failed to connect" in (why or "")
    assert reached(Running("a", BUSY)) == (False, "a: domain has an active block job")
    assert reached() == (False, "no domain runs on h1, so its daemon cannot be asked")


def test_a_refusal_that_was_lost_with_the_connection_is_asked_for_again() -> None:
    lost = failed(libvirt.VIR_ERR_SYSTEM_ERROR, "End of file while reading data: : Input/output error")
    assert reached(Running("a", lost, lost, lost, REACHED)) == (True, None)
    refused = failed(
        libvirt.VIR_ERR_SYSTEM_ERROR, "Cannot recv data: ssh: connect to host h2 port 22: Connection refused"
    )
    asked, why = reached(Running("a", refused))
    assert asked
    assert "Connection refused" in (why or "")


def test_what_a_domain_needs_is_read_from_its_description() -> None:
    assert probe.facts(Connection(Running("a", REACHED))).domains == (
        Needs(
            name="a",
            disks=("/shared/a.qcow2", "/dev/vg/a"),
            images=("/shared/a.qcow2", "/dev/vg/a", "images/a"),
            unlocked=("vdb", "?", "?", "?"),
            pools=("images",),
            secrets=("2ec115d7", "target"),
            networks=("default",),
            bridges=("br0",),
        ),
    )


@pytest.mark.hostile
def test_a_description_of_any_bytes_takes_no_other_domain_and_no_host() -> None:
    class NotUtf8(Running):
        def XMLDesc(self) -> str:  # noqa: N802
            content = b"<domain><name>caf\xe9</name><title>\x01</title></domain>"
            return content.decode("utf-8")

    found = probe.facts(Connection(NotUtf8("b", REACHED), Running("a", REACHED))).domains
    assert [domain.name for domain in found] == ["caf\ufffd", "a"]


def test_a_host_whose_qemu_libvirt_does_not_find_is_known_all_the_same() -> None:
    """As where domains name a QEMU that is in no usual place, or while it is being upgraded."""

    class WithoutQemu(Connection):
        def getVersion(self) -> int:  # noqa: N802
            raise failed(libvirt.VIR_ERR_INTERNAL_ERROR, "Cannot find suitable emulator for x86_64")

    found = probe.facts(WithoutQemu(Running("a", REACHED)))
    assert [domain.name for domain in found.domains] == ["a"]
    assert judge_libvirt("h1", "qemu+ssh://h1/system", found).verdict is Severity.GOOD
    assert pair(there=replace(HERE, hypervisor_version=None)).verdict is Severity.GOOD


def test_a_domain_that_ends_meanwhile_takes_no_other_with_it() -> None:
    class Ended(Running):
        def XMLDesc(self) -> str:  # noqa: N802
            raise failed(libvirt.VIR_ERR_NO_DOMAIN, "no domain with matching uuid")

    found = probe.facts(Connection(Ended("b", REACHED), Running("a", REACHED))).domains
    assert [domain.name for domain in found] == ["a"]


@pytest.mark.parametrize(
    ("answer", "may_abort"),
    [
        (None, True),
        (libvirt.VIR_ERR_ACCESS_DENIED, False),
        (libvirt.VIR_ERR_OPERATION_INVALID, True),
        (libvirt.VIR_ERR_RPC, None),
    ],
)
def test_whether_a_migration_may_be_aborted_is_asked_without_changing_anything(
    answer: int | None, may_abort: bool | None
) -> None:
    domain = Running("a", REACHED)
    domain.to_change = None if answer is None else failed(answer, "no")
    assert probe.facts(Connection(domain)).may_abort is may_abort
    assert probe.facts(Connection()).may_abort is None


def test_only_a_path_that_no_pool_has_is_missing() -> None:
    paths = ["/shared/a"]
    missing = failed(libvirt.VIR_ERR_NO_STORAGE_VOL, "no storage vol with matching path")
    assert probe.unseen(Connection(), paths) == []
    assert probe.unseen(Connection(pools=missing), paths) == paths
    with pytest.raises(libvirt.libvirtError, match="connection reset"):
        probe.unseen(Connection(pools=failed(libvirt.VIR_ERR_RPC, "connection reset")), paths)


# --- asked of a server that answers as Prometheus does
# ------------------------------------------------------------------


def vector(*values: tuple[dict[str, str], float]) -> str:
    result = [{"metric": labels, "value": [time.time(), str(value)]} for labels, value in values]
    return json.dumps({"status": "success", "data": {"resultType": "vector", "result": result}})


def test_what_prometheus_tells_of_itself_and_of_the_exporters(httpserver: HTTPServer) -> None:
    httpserver.expect_request("/api/v1/status/buildinfo").respond_with_json(
        {"status": "success", "data": {"version": "2.42.0"}}
    )
    target: dict[str, Any] = {
        "labels": {"job": "j", "instance": "h2:9807"},
        "health": "down",
        "lastError": "no route to host",
    }
    other = {"labels": {"job": "node", "instance": "h1:9100"}, "health": "down", "lastError": "not about the exporter"}
    hostile: dict[str, Any] = {
        "labels": {"job": "j", "instance": "x/system?command=/prog&a=:1"},
        "health": "down",
        "lastError": "x",
    }
    httpserver.expect_request("/api/v1/targets").respond_with_json(
        {"status": "success", "data": {"activeTargets": [target, other, hostile]}}
    )
    client = PrometheusClient(url=httpserver.url_for("").rstrip("/"), timeout_seconds=5)
    queries: list[str] = []

    def answer(request: Request) -> Response:
        queries.append(request.form["query"])
        return _json(next(answers))

    httpserver.expect_request("/api/v1/query").respond_with_handler(answer)
    answers = iter((vector((target["labels"], 0), (hostile["labels"], 0)),))
    targets = AdmittedTargets(bool)
    health = prometheus_health(client, 'job="j"', targets, time.time())
    assert (health.version, health.errors) == ("2.42.0", {"h2": "no route to host"})
    assert health.ahead_seconds == pytest.approx(0, abs=1.5)
    answers = iter(
        (
            vector(({"instance": "h1:9807", "collector": "block"}, 0)),
            vector(({"instance": "h1:9807", "version": "0.1.0"}, 1)),
            vector(({"instance": "h1:9807"}, 0.25), ({"instance": "-oProxyCommand=x"}, 0.25)),
        )
    )
    exporters = exporter_health(client, 'job="j"', targets, time.time())
    assert all(re.findall(r"[a-z_]+\{", query) == re.findall(r"[a-z_]+\{(?=job=.j.\})", query) for query in queries)
    assert targets.refused.counts == {TargetRefusal.NOT_A_HOST: 2}
    assert exporters == ExporterHealth(versions={"h1": "0.1.0"}, failing={"h1": ("block",)}, ahead_seconds={"h1": 0.25})


@pytest.mark.parametrize(
    "nonsense",
    [
        '{"data": {"activeTargets": 7}}',
        '{"data": {"activeTargets": [7]}}',
        '{"data": {"activeTargets": [{"labels": [["job", []]]}]}}',
        '{"data": {"activeTargets": [{"labels": {"job": {}}}]}}',
        '{"data": 1}',
        "[" * 100_000,
        "",
    ],
)
def test_a_prometheus_that_reports_nonsense_of_itself_is_named_in_one_line(
    httpserver: HTTPServer, nonsense: str
) -> None:
    httpserver.expect_request("/api/v1/status/buildinfo").respond_with_data('{"data": {"version": "3.1.0"}}')
    httpserver.expect_request("/api/v1/query").respond_with_data(vector())
    httpserver.expect_request("/api/v1/targets").respond_with_data(nonsense)
    client = PrometheusClient(url=httpserver.url_for("").rstrip("/"), timeout_seconds=5)
    with pytest.raises(MonitorError, match=r"^\S+ does not answer as Prometheus does$"):
        prometheus_health(client, "", AdmittedTargets(bool), time.time())


@pytest.mark.parametrize(
    "date", ["", "yesterday", "Mon, 99 Foo 99999 99:99:99 +9999", "Thu, 01 Jan 9999 00:00:00 +9999"]
)
def test_a_prometheus_without_a_date_has_no_known_clock(date: str) -> None:
    class Undated(PrometheusClient):
        def get(self, path: str) -> Reply:
            return Reply(status=200, reason="OK", headers={"Date": date}, content=b'{"data": {}}')

        def instant(self, query: str, at: float) -> QueryAnswer:
            return QueryAnswer(())

    found = prometheus_health(Undated("http://p", 1), "", AdmittedTargets(bool), time.time())
    assert found.ahead_seconds is None or found.ahead_seconds > 1e9


def _json(text: str) -> Response:
    return Response(text, content_type="application/json")


def test_without_prometheus_the_command_says_so_and_ends_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{free.getsockname()[1]}"
    config = tmp_path / "virtpoise.yml"
    config.write_text(f"prometheus: {{url: '{closed}'}}\nstate: {{url: 'sqlite:///{tmp_path}/state.db'}}\n")
    assert main(["doctor", "--config", str(config)]) == 1
    said = capsys.readouterr().out
    assert "✓ store:" in said
    assert f"✗ Prometheus: Prometheus at {closed} cannot be asked" in said
    assert "→ see prometheus.url" in said
    assert main(["doctor", "--config", str(config), "--output", "json"]) == 1
    assert [finding["verdict"] for finding in json.loads(capsys.readouterr().out)] == ["good", "bad"]


def test_what_groups_share_is_examined_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    tokens = tmp_path / "tokens"
    tokens.write_text("alice:0123456789abcdef0123456789abcdef\n")
    tokens.chmod(0o600)
    config = tmp_path / "virtpoise.yml"
    groups = ", ".join(f"{name}: {{matchers: 'cluster=\"{name}\"'}}" for name in ("blue", "red"))
    store, web = f"sqlite:///{tmp_path}/state.db", f"{{token_file: '{tokens}'}}"
    config.write_text(f"{{prometheus: {{url: '{url}'}}, state: {{url: '{store}'}}, web: {web}, groups: {{{groups}}}}}")
    assert main(["doctor", "--config", str(config), "--output", "json"]) == 1
    subjects = [finding["subject"] for finding in json.loads(capsys.readouterr().out)]
    assert subjects == ["store", "tokens", "blue: Prometheus", "red: Prometheus"]
