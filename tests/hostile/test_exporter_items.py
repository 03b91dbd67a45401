"""One bad item takes no other: names, XML, files and domains that libvirt holds locked."""

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import libvirt
import pytest

from exporter.recording import RECORDED, Recorded, RecordedLink
from virtpoise_exporter.collectors.cpu import CpuCollector
from virtpoise_exporter.collectors.domains import DomainsCollector
from virtpoise_exporter.collectors.libvirt import LibvirtCollector
from virtpoise_exporter.collectors.network import NetworkCollector
from virtpoise_exporter.collectors.numa import NumaCollector
from virtpoise_exporter.collectors.pressure import PressureCollector
from virtpoise_exporter.exposition import render
from virtpoise_exporter.kernel.domains import KernelSource
from virtpoise_exporter.kernel.netdev import parse_default_route, parse_netdev
from virtpoise_exporter.kernel.process import pid_file
from virtpoise_exporter.kernel.topology import TopologyKeeper
from virtpoise_exporter.log import _Formatter
from virtpoise_exporter.scrape import Scraper
from virtpoise_exporter.virt import questions, session
from virtpoise_exporter.virt.model import Domain, HostFacts, Inventory
from virtpoise_exporter.virt.session import Session
from virtpoise_exporter.virt.stats import Stats
from virtpoise_exporter.virt.xml import domain_facts

pytestmark = pytest.mark.hostile

WITH_HUGE_PAGES = domain_facts(
    "<domain><vcpu>2</vcpu><memory>4</memory><memoryBacking><hugepages/></memoryBacking></domain>"
)
XML = "<domain><name>x</name><title>{}</title><vcpu>2</vcpu><memory>4</memory></domain>"


def error_of(code: int) -> libvirt.libvirtError:
    error = libvirt.libvirtError("no")
    error.err = (code, 0, "no", 0, None, None, None, 0, 0)
    return error


class Libvirtd:
    """A libvirtd as a session calls it. A domain in ``locked`` holds up every call that touches it, as libvirt's lock
    does; ``stopped`` holds up all calls. ``xml`` and ``names`` are what it answers, raised if they are exceptions."""

    def __init__(self, *names: str) -> None:
        self.names: dict[str, Any] = {f"{number:02x}": name for number, name in enumerate(names)}
        self.xml: dict[str, Any] = dict.fromkeys(self.names, XML.format("t"))
        self.states = dict.fromkeys(self.names, 1)
        self.locked: set[str] = set()
        self.odd: set[str] = set()  # those whose statistics cannot be read
        self.stopped = False
        self.version: Any = 7_002_000
        self.capabilities: Any = "<capabilities/>"
        self.twice: set[str] = set()  # those that are in a list two times
        self._change = threading.Condition()

    def handle(self, uuid: str) -> Any:
        return SimpleNamespace(
            UUIDString=lambda: uuid,
            name=lambda: answer(self.names[uuid]),
            ID=lambda: int(uuid, 16) + 1,
            XMLDesc=lambda _flags: self.after((uuid,), lambda: answer(self.xml[uuid])),
            connect=lambda: self.connection(),
        )

    def connection(self) -> Any:
        def states(*_: Any) -> Any:
            self.wait(self.names)
            uuids = [*self.states, *self.twice]
            return [(self.handle(uuid), {"state.state": self.states[uuid]}) for uuid in uuids]

        return SimpleNamespace(
            getAllDomainStats=states,
            getLibVersion=lambda: self.after((), lambda: 9_000_000),
            getVersion=lambda: answer(self.version),
            getHostname=lambda: "h1",
            getType=lambda: "QEMU",
            getCapabilities=lambda: answer(self.capabilities),
            domainListGetStats=self.stats,
        )

    def stats(self, handles: Any, *_: Any) -> Any:
        uuids = [handle.UUIDString() for handle in handles]
        self.wait(uuids)
        for uuid in uuids:
            if uuid in self.odd:
                raise not_utf8(b"/disk\xff")
        known = [handle for handle in handles if handle.UUIDString() in self.names]
        return [(handle, {"cpu.time": 1, "state.state": self.states[handle.UUIDString()]}) for handle in known]

    def after(self, touched: Any, then: Callable[[], Any]) -> Any:
        self.wait(touched)
        return then()

    def wait(self, touched: Any) -> None:
        with self._change:
            assert self._change.wait_for(lambda: not self.stopped and self.locked.isdisjoint(touched), 30)

    def lock(self, *uuids: str, stopped: bool = False) -> None:
        with self._change:
            self.locked, self.stopped = set(uuids), stopped
            self._change.notify_all()


def answer(value: Any) -> Any:
    if isinstance(value, Exception):
        raise value
    return value


def not_utf8(raw: bytes) -> UnicodeDecodeError:
    """What libvirt-python raises: it decodes strictly."""
    with pytest.raises(UnicodeDecodeError) as raised:
        raw.decode()
    return raised.value


@pytest.fixture
def libvirtd(monkeypatch: pytest.MonkeyPatch) -> Iterator[Libvirtd]:
    made = Libvirtd("a", "b", "c", "d")
    monkeypatch.setattr(libvirt, "openReadOnly", lambda _uri: made.connection())
    monkeypatch.setattr(questions, "PATIENCE_SECONDS", 0.2)
    yield made
    made.lock()


class Listed:
    """A session and the lists that it gave."""

    def __init__(self) -> None:
        self.lists: list[Inventory] = []
        self.handles: set[str] = set()
        self.session = Session("qemu:///system", HostFacts("h1"), self.take, lambda: None)

    def take(self, inventory: Inventory, handles: Any) -> None:
        self.lists.append(inventory)
        self.handles = set(handles)

    def list(self, now: float, *changed: str) -> Inventory:
        self.session._list(set(changed), now)
        return self.lists[-1]


def page(inventory: Inventory) -> str:
    return render(LibvirtCollector(RecordedLink(inventory), RECORDED / "proc").collect(1.0)).decode()


# ---- names and XML


def test_a_name_and_a_title_that_are_not_utf8_take_no_other_domain(libvirtd: Libvirtd) -> None:
    """Seen on libvirt 9: `virsh domrename` and `virsh desc --title` pass on any byte."""
    libvirtd.names["01"] = not_utf8(b"by\xffte")
    libvirtd.xml["02"] = not_utf8(XML.format("@").encode().replace(b"@", b"bad \xff title"))
    listed = Listed().list(time.monotonic())
    assert [domain.facts.vcpus for domain in listed.domains] == [2] * 4
    text = page(listed)
    assert text.count("\nvirtpoise_domain_running{") == 4
    assert r'virtpoise_domain_running{domain="by\\xffte",uuid="01"} 1' in text


@pytest.mark.parametrize("title", ["x\ufffey", "x\x1b[2Jy", "x\x00y", "\ud800"])
def test_characters_that_no_xml_may_hold_do_not_hide_a_domain(title: str) -> None:
    """libvirt 9 writes U+FFFE and the escape character into a title as they are; expat refuses them."""
    assert domain_facts(XML.format(title)).vcpus == 2


def test_xml_that_cannot_be_read_leaves_the_last_facts_with_their_age(libvirtd: Libvirtd) -> None:
    listed, now = Listed(), time.monotonic()
    listed.list(now - 70)
    libvirtd.xml["01"] = "<domain><vcpu>2</wrong>"
    text = page(listed.list(now, "01"))
    assert text.count("\nvirtpoise_domain_vcpus{") == 4
    ages = [line for line in text.splitlines() if line.startswith("virtpoise_domain_facts_age_seconds{")]
    assert len(ages) == 1
    assert ages[0].startswith('virtpoise_domain_facts_age_seconds{domain="b",uuid="01"} 70.')
    libvirtd.xml["01"] = XML.format("mended")
    assert "facts_age" not in page(listed.list(now + 1))


def test_the_hypervisors_version_is_not_needed_for_a_list(libvirtd: Libvirtd, caplog: pytest.LogCaptureFixture) -> None:
    """libvirt 9 with QEMU's program hidden: `virsh list` works, `virsh version` does not."""
    libvirtd.version = error_of(libvirt.VIR_ERR_INTERNAL_ERROR)
    facts, complete = session._host_facts(libvirtd.connection(), HostFacts(hypervisor="QEMU 7.2.0"), print)
    assert (facts.hostname, facts.hypervisor, facts.libvirt_version, complete) == ("h1", "QEMU 7.2.0", "9.0.0", False)
    assert session._host_facts(libvirtd.connection(), HostFacts(), print)[0].hypervisor == "QEMU"


def test_a_list_with_a_domain_twice_or_with_one_name_for_two_is_a_list(libvirtd: Libvirtd) -> None:
    libvirtd.twice.add("01")
    libvirtd.names["02"] = libvirtd.names["03"]
    text = page(Listed().list(time.monotonic()))
    assert text.count("\nvirtpoise_domain_running{") == 4


@pytest.mark.parametrize("number", ["-1", "nan", "1e3", "9" * 30, "9" * 400, "9" * 4300, "9" * 5000])
@pytest.mark.parametrize(
    "xml",
    [
        "<domain><vcpu>{}</vcpu><memory>4</memory></domain>",
        "<domain><vcpu current='{}'>2</vcpu><memory>4</memory></domain>",
        "<domain><vcpu>2</vcpu><memory>{}</memory></domain>",
        "<domain><vcpu>2</vcpu><memory>4</memory><currentMemory unit='GiB'>{}</currentMemory></domain>",
        "<domain><memoryBacking><hugepages><page size='{}'/></hugepages></memoryBacking></domain>",
        "<domain><memoryBacking><hugepages/></memoryBacking><cpu><numa><cell memory='{}'/></numa></cpu></domain>",
        "<domain><devices><memballoon><stats period='{}'/></memballoon></devices></domain>",
    ],
)
def test_a_number_that_no_domain_has_takes_that_domains_facts_alone(libvirtd: Libvirtd, xml: str, number: str) -> None:
    """A figure of 400 digits ended Prometheus' whole scrape, and one of 4300 the exporter's page."""
    libvirtd.xml["01"] = xml.format(number)
    text = page(Listed().list(time.monotonic()))
    assert text.count("\nvirtpoise_domain_vcpus{") == 3
    assert text.count("\nvirtpoise_domain_facts_age_seconds{") == 1
    assert all(len(line) < 200 for line in text.splitlines() if not line.startswith("#"))


@pytest.mark.parametrize("capabilities", ["<capabilities>", "<a/>" * 2**20, "<a>" * 100_000, error_of(1)])
def test_odd_capabilities_hide_nothing_else_of_the_host(libvirtd: Libvirtd, capabilities: Any) -> None:
    """A tree takes 50 times its text: 4 MiB, the most that libvirt passes on, ended the exporter under its unit."""
    libvirtd.capabilities = capabilities
    said: list[str] = []
    facts, complete = session._host_facts(libvirtd.connection(), HostFacts(cpu_model="before"), said.append)
    assert (facts.hostname, facts.cpu_model, facts.libvirt_version, complete) == ("h1", "before", "9.0.0", False)
    assert len(said) == 1
    assert said[0].startswith("libvirt answers, but not about the host's capabilities: ")


# ---- domains that libvirt holds locked


def test_a_locked_domain_is_the_only_one_without_an_answer(libvirtd: Libvirtd) -> None:
    listed, now = Listed(), time.monotonic()
    listed.list(now - 11)
    libvirtd.lock("01")
    libvirtd.states["02"] = 3
    text = page(listed.list(now))
    assert "virtpoise_libvirt_up 1" in text
    assert 'virtpoise_domains{state="active"} 4' in text
    assert text.count("\nvirtpoise_domain_running{") == 3
    assert 'virtpoise_domain_running{domain="c",uuid="02"} 0' in text  # its state is of now
    assert 'virtpoise_exporter_stale_domains{collector="libvirt"} 1' in text
    assert 'virtpoise_domain_stale_seconds{domain="b",uuid="01",collector="libvirt"}' in text
    assert 'virtpoise_domain_vcpus{domain="b",uuid="01"} 2' in text
    assert 'virtpoise_domain_facts_age_seconds{domain="b",uuid="01"} 11.' in text
    assert listed.handles == {"00", "02", "03"}  # it is not asked for statistics
    libvirtd.lock()
    end = time.monotonic() + 5
    while time.monotonic() < end and listed.list(time.monotonic()).held_since:
        pass
    assert not listed.lists[-1].held_since


def test_a_second_connection_that_was_slow_once_hides_no_domain(
    libvirtd: Libvirtd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A libvirtd that has just started may list its domains over one connection and not yet over the other one."""
    listed, now = Listed(), time.monotonic()
    monkeypatch.setattr(listed.session._second, "getAllDomainStats", lambda *_: libvirtd.wait({"slow"}))
    libvirtd.lock("slow")
    listed.list(now - 11)
    libvirtd.lock("01", "slow")
    text = page(listed.list(now))
    assert 'virtpoise_exporter_stale_domains{collector="libvirt"} 1' in text
    assert text.count("\nvirtpoise_domain_running{") == 3


def test_a_state_is_shown_for_ten_seconds_after_libvirts_last_word(libvirtd: Libvirtd) -> None:
    listed, now = Listed(), time.monotonic()
    listed.list(now - 8)
    libvirtd.lock("01")
    text = page(listed.list(now))
    assert 'virtpoise_domain_running{domain="b",uuid="01"} 1' in text
    assert 'virtpoise_exporter_stale_domains{collector="libvirt"} 0' in text


def test_domains_that_come_and_go_meanwhile_are_noticed(libvirtd: Libvirtd) -> None:
    listed, now = Listed(), time.monotonic()
    listed.list(now)
    libvirtd.lock("01")
    libvirtd.names["0a"], libvirtd.xml["0a"], libvirtd.states["0a"] = "new", XML.format(""), 1
    del libvirtd.names["03"]
    listed.session._on_event(None, libvirtd.handle("0a"))
    names = [domain.name for domain in listed.list(now + 5, "0a", "03").domains]
    assert names == ["a", "b", "c", "new"]


def test_a_libvirtd_that_answers_nothing_is_down(libvirtd: Libvirtd) -> None:
    listed = Listed()
    listed.list(time.monotonic())
    libvirtd.lock(stopped=True)
    listed.list(time.monotonic())
    assert len(listed.lists) == 1  # no list: libvirt_up goes to 0 when the last one is 10 s old


def test_a_list_that_libvirt_never_gave_is_not_made_up(libvirtd: Libvirtd, caplog: pytest.LogCaptureFixture) -> None:
    libvirtd.lock("01")
    made = Listed()
    made.session._list({"00"}, time.monotonic())
    assert made.lists == []
    assert "libvirt holds a domain locked" in caplog.text


def test_no_more_than_three_questions_of_a_connection_hang(libvirtd: Libvirtd) -> None:
    """libvirtd works on five of a connection, and then reads nothing more of it. One has the list, one the domains."""
    listed, now = Listed(), time.monotonic()
    listed.list(now)
    libvirtd.lock("00", "01", "02", "03")
    before = threading.active_count()
    for step in range(5):
        listed.list(now + step + 1)
    assert threading.active_count() - before <= 1 + 3


def test_statistics_are_had_of_all_but_the_bad_domain(libvirtd: Libvirtd) -> None:
    libvirtd.odd = {"02"}
    kept = StatsLink(libvirtd)
    told = Stats(kept).of(1)(kept.domains, 5.0)
    assert sorted(told.stats) == ["00", "01", "03"]
    assert not told.complete


def test_a_locked_domain_costs_one_question_for_statistics(libvirtd: Libvirtd) -> None:
    kept = StatsLink(libvirtd)
    stats = Stats(kept)
    libvirtd.lock("01")
    kept.locked = {"01"}
    for _ in range(3):
        assert sorted(stats.of(1)(kept.domains, 10.0).stats) == ["00", "02", "03"]
        kept.unknown = set(kept.locked)
    assert sum(thread.name == "libvirt-stats" for thread in threading.enumerate()) <= 1


class StatsLink(RecordedLink):
    def __init__(self, libvirtd: Libvirtd) -> None:
        self.domains = [Domain(uuid, str(name), 1, 1, 1) for uuid, name in libvirtd.names.items()]
        super().__init__(Inventory(HostFacts(), tuple(self.domains), {}, time.monotonic()))
        self.locked: set[str] = set()
        self.unknown: set[str] = set()  # left out of the handles, as after the next list
        self._libvirtd = libvirtd

    def handles(self, uuids: Any) -> list[Any]:
        return [self._libvirtd.handle(uuid) for uuid in uuids if uuid not in self.unknown]

    def held(self, uuids: Any) -> set[str]:
        return self.locked


# ---- files


@pytest.mark.parametrize(
    ("name", "file"),
    [  # as libvirt 9.0 wrote them
        ("R&D", "R&amp;D.pid"),
        ("a<b>c", "a&lt;b&gt;c.pid"),
        ("say \"hi\" 'ho'", "say &quot;hi&quot; &apos;ho&apos;.pid"),
        ("a%20b", "a%20b.pid"),
        ("#1", "#1.pid"),
        ("bidi\u202e x", "bidi\u202e x.pid"),
    ],
)
def test_the_process_of_a_domain_with_any_name_is_found(
    recorded: Recorded, tmp_path: Path, name: str, file: str
) -> None:
    assert pid_file(name) == file
    (tmp_path / file).write_bytes((recorded.run / "web.pid").read_bytes())
    web = recorded.domain("web")
    named = Domain(web.uuid, name, web.id, web.state, web.reason, web.facts)
    source = KernelSource(recorded.procfs, tmp_path)
    source.follow([named])
    assert source.read([named], 1.0)[web.uuid].cpu_seconds == pytest.approx(12.14)


@pytest.fixture
def procfs(recorded: Recorded, tmp_path: Path) -> Path:
    return Path(shutil.copytree(recorded.procfs, tmp_path / "proc"))


def odd(path: Path) -> Callable[[Path], object]:
    def spoil(procfs: Path) -> None:
        (procfs / path).write_bytes(b"\xff odd \x00\n")

    return spoil


@pytest.mark.parametrize(
    "spoil",
    [
        odd(Path("1201/task/1207/schedstat")),
        odd(Path("1201/stat")),
        odd(Path("1201/task/1207/comm")),
        odd(Path("net/dev")),
        lambda procfs: (procfs / "net/dev").unlink(),
        lambda procfs: (procfs / "1201/task/1207/schedstat").write_text(""),
    ],
)
def test_an_odd_file_of_one_domain_takes_no_other_figure(
    recorded: Recorded, procfs: Path, spoil: Callable[[Path], object]
) -> None:
    source = KernelSource(procfs, recorded.run)
    source.follow(recorded.inventory.domains)
    spoil(procfs)
    usages = source.read(recorded.inventory.domains, 1.0)
    others = [domain for domain in recorded.inventory.domains if source.reads(domain) and domain.name != "web"]
    assert len(others) == 2
    assert all(usages[domain.uuid].cpu_seconds is not None for domain in others)


def test_a_figure_that_cannot_be_read_is_counted_and_the_rest_is_there(recorded: Recorded, procfs: Path) -> None:
    source = KernelSource(procfs, recorded.run)
    source.follow(recorded.inventory.domains)
    keeper = TopologyKeeper(procfs, recorded.sysfs, {})
    keeper.refresh()
    choice: Any = SimpleNamespace(source=source, reason="", read=source.read)
    collector = DomainsCollector(RecordedLink(recorded.inventory), choice, keeper)
    collector.collect(1.0)
    odd(Path("1201/task/1207/schedstat"))(procfs)
    text = render(collector.collect(1.0)).decode()
    assert text.count("\nvirtpoise_domain_cpu_seconds_total{") == 3
    assert text.count("\nvirtpoise_domain_vcpu_seconds_total{") == 2
    assert 'virtpoise_domain_stale_seconds{domain="web",' in text


def test_names_of_devices_may_hold_anything() -> None:
    """The kernel forbids blanks, slashes and colons only; Python's splitlines() takes more for the end of a line."""
    text = "h\nh\n  a\x1cb: 1 0 0 0 0 0 0 0 2 0\n c\x85: 3 0 0 0 0 0 0 0 4 0\nodd\n eth0: 5 0 0 0 0 0 0 0 6 0\n"
    assert sorted(parse_netdev(text)) == ["a\x1cb", "c\x85", "eth0"]
    assert parse_default_route("Iface\neth0 00000000 0 0 0 0 x 00000000\n") == ""


@pytest.mark.parametrize("content", ["", "odd\n", "h\nh\n eth0: x\n"])
def test_a_list_of_devices_without_a_device_is_a_failure(recorded: Recorded, procfs: Path, content: str) -> None:
    """Before, a host whose traffic could not be read was a host without uplinks, and nothing said so."""
    keeper = TopologyKeeper(procfs, recorded.sysfs, {})
    keeper.refresh()
    (procfs / "net/dev").write_text(content)
    text = Scraper([NetworkCollector(keeper, procfs)]).scrape(5).decode()
    assert 'virtpoise_exporter_collector_success{collector="network"} 0' in text


def test_the_thread_that_reads_the_devices_survives_what_it_reads(recorded: Recorded, procfs: Path) -> None:
    (procfs / "net/route").write_bytes(b"Iface\n\xff\xfe 00000000 0 0 0 0 x 00000000\n")
    keeper = TopologyKeeper(procfs, recorded.sysfs, {})
    keeper.refresh()
    assert keeper.topology() is not None


@pytest.mark.parametrize(
    "content", [None, b"\xff odd \x00\n", b"", b"MemTotal: x kB\n", b"MemTotal: 8 kB\nHugepagesize: ? kB\n"]
)
def test_a_meminfo_that_cannot_be_read_takes_no_other_figure_of_a_host_with_huge_pages(
    recorded: Recorded, tmp_path: Path, content: bytes | None
) -> None:
    """Before, the host had no `virtpoise_libvirt_up`, and so was unknown to the balancer."""
    (tmp_path / "stat").write_bytes((recorded.procfs / "stat").read_bytes())
    if content is not None:
        (tmp_path / "meminfo").write_bytes(content)
    first, *others = recorded.inventory.domains
    inventory = replace(recorded.inventory, domains=(replace(first, facts=WITH_HUGE_PAGES), *others))
    link = RecordedLink(inventory)
    text = Scraper([LibvirtCollector(link, tmp_path), CpuCollector(tmp_path)]).scrape(5).decode()
    assert "virtpoise_libvirt_up 1" in text
    assert "\nvirtpoise_host_cpus " in text
    assert text.count("\nvirtpoise_domain_running{") == len(inventory.domains)
    assert f'virtpoise_domain_hugepages_bytes{{domain="{first.name}",uuid="{first.uuid}",size="unknown"}} 4096' in text
    assert 'virtpoise_exporter_collector_success{collector="libvirt"} 0' in text


@pytest.mark.parametrize("file", ["node0/meminfo", "node0/cpulist", "node0/hugepages/hugepages-2048kB/nr_hugepages"])
@pytest.mark.parametrize("spoil", [lambda path: path.unlink(), lambda path: path.write_bytes(b"\xff odd \x00\n")])
def test_an_odd_file_of_a_numa_node_takes_no_figure_of_another_file(
    tmp_path: Path, file: str, spoil: Callable[[Path], object]
) -> None:
    nodes = tmp_path / "devices/system/node"
    for number in (0, 1):
        pool = nodes / f"node{number}/hugepages/hugepages-2048kB"
        pool.mkdir(parents=True)
        (pool / "nr_hugepages").write_text("512\n")
        (pool / "free_hugepages").write_text("12\n")
        (nodes / f"node{number}/cpulist").write_text("0-3\n")
        sizes = f"Node {number} MemTotal: 8 kB\nNode {number} MemFree: 4 kB\n"
        (nodes / f"node{number}/meminfo").write_text(sizes)
    whole = Scraper([NumaCollector(tmp_path)]).scrape(5).decode().count("\nvirtpoise_host_")
    spoil(nodes / file)
    text = Scraper([NumaCollector(tmp_path)]).scrape(5).decode()
    assert whole - text.count("\nvirtpoise_host_") == (1 if "cpulist" in file else 2)
    assert 'virtpoise_exporter_collector_success{collector="numa"} 0' in text


@pytest.mark.parametrize("content", [b"\xff", b"some\n", b"\n", b"some avg10=0.09 total=x\n"])
def test_an_odd_file_of_pressure_takes_no_other_resource(recorded: Recorded, procfs: Path, content: bytes) -> None:
    (procfs / "pressure/cpu").write_bytes(content)
    text = Scraper([PressureCollector(procfs)]).scrape(5).decode()
    assert 'virtpoise_host_pressure_seconds_total{resource="cpu"' not in text
    assert text.count('virtpoise_host_pressure_seconds_total{resource="memory"') == 2
    assert 'virtpoise_exporter_collector_success{collector="pressure"} 0' in text


# ---- logs


def test_names_cannot_steer_a_terminal_through_the_log() -> None:
    import json
    import logging

    name = "x\x1b[2J\u202e\n\udcff"
    record = logging.LogRecord("virtpoise_exporter", logging.WARNING, "", 0, "domain %s", (name,), None)
    for line in (_Formatter("logfmt").format(record), _Formatter("json").format(record)):
        assert line.isprintable()
        assert r"\u001b[2J\u202e\n\udcff" in line
    assert json.loads(_Formatter("json").format(record))["msg"] == f"domain {name}"


@pytest.mark.parametrize("style", ["logfmt", "json"])
def test_a_message_of_megabytes_is_a_short_line_and_not_kept(libvirtd: Libvirtd, style: Any) -> None:
    import logging

    record = logging.LogRecord("virtpoise_exporter", logging.WARNING, "", 0, "%s", ("\x1b" * 4_000_000,), None)
    assert len(_Formatter(style).format(record)) < 13_000  # an escape takes six
    made = Listed().session
    made._complain("x" * 4_000_000)
    assert [len(one) for one in made._complaints] == [2003]


def test_the_recorded_host_has_names_as_libvirt_writes_them() -> None:
    assert (RECORDED / "run" / "büro &quot;1&quot; \\ eins.pid").exists()
