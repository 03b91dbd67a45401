"""The kernel source: the right process, and counters that only grow."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import FakeClock
from exporter.recording import Recorded
from virtpoise_exporter.choice import SourceChoice
from virtpoise_exporter.kernel.domains import NAMING_SECONDS, KernelSource
from virtpoise_exporter.kernel.netdev import parse_default_route, parse_netdev
from virtpoise_exporter.kernel.process import is_vcpu, parse_schedstat, parse_stat, state_folder, uuid_of
from virtpoise_exporter.usage import Flow, Traffic, Usage, VcpuSum
from virtpoise_exporter.virt.model import Domain
from virtpoise_exporter.virt.source import LibvirtSource
from virtpoise_exporter.virt.stats import Answer


@pytest.fixture
def procfs(recorded: Recorded, tmp_path: Path) -> Path:
    return Path(shutil.copytree(recorded.procfs, tmp_path / "proc"))


@pytest.fixture
def source(recorded: Recorded, procfs: Path) -> KernelSource:
    source = KernelSource(procfs, recorded.run)
    source.follow(recorded.inventory.domains)
    return source


def read(source: KernelSource, domain: Domain) -> Usage:
    return source.read([domain], 1.0)[domain.uuid]


def test_a_domain_is_read_from_its_process(recorded: Recorded, source: KernelSource) -> None:
    usage = read(source, recorded.domain("web"))
    assert usage.cpu_seconds == pytest.approx(12.14)
    assert usage.vcpu_seconds == pytest.approx(11.98)  # of both vCPUs, and of no other thread
    assert usage.cpu_delay_seconds == pytest.approx(2.0)
    assert usage.resident_bytes == 10324 * 4096
    assert usage.traffic == {"vnet0": Traffic(Flow(7654321, 800, 0, 0), Flow(1234567, 900, 0, 0))}


def test_a_macvtap_shows_the_traffic_as_the_guest_sees_it(recorded: Recorded, source: KernelSource) -> None:
    assert read(source, recorded.domain("arriving")).traffic == {
        "macvtap0": Traffic(Flow(333333, 300, 0, 0), Flow(444444, 400, 0, 0))
    }


def test_of_two_processes_with_one_uuid_the_one_of_this_host_is_read(recorded: Recorded, source: KernelSource) -> None:
    """The other is process 1402, whose figures are a thousand times as high."""
    assert read(source, recorded.domain('büro "1" \\ eins')).cpu_seconds == pytest.approx(0.75)


def test_a_pid_file_that_names_a_stranger_is_not_believed(recorded: Recorded, procfs: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "web.pid").write_text("1302")
    source = KernelSource(procfs, tmp_path / "run")
    source.follow(recorded.inventory.domains)
    assert not source.read([recorded.domain("web")], 1.0)


def test_a_domain_whose_process_has_ended_is_left_out_and_the_others_are_not(
    recorded: Recorded, source: KernelSource, procfs: Path
) -> None:
    shutil.rmtree(procfs / "1201")
    assert not source.read([recorded.domain("web")], 1.0)
    assert read(source, recorded.domain("arriving")) is not None


def test_a_vcpu_that_is_unplugged_stays_in_the_sum(recorded: Recorded, source: KernelSource, procfs: Path) -> None:
    domain = recorded.domain("web")
    before = read(source, domain).cpu_delay_seconds
    shutil.rmtree(procfs / "1201" / "task" / "1208")
    assert read(source, domain).cpu_delay_seconds == before
    _change_thread_count(procfs / "1201" / "stat", -1)
    assert read(source, domain).cpu_delay_seconds == before


def test_a_vcpu_that_is_plugged_in_is_counted(recorded: Recorded, source: KernelSource, procfs: Path) -> None:
    domain = recorded.domain("web")
    before = read(source, domain).cpu_delay_seconds or 0.0
    shutil.copytree(procfs / "1201" / "task" / "1208", procfs / "1201" / "task" / "1299")
    _change_thread_count(procfs / "1201" / "stat", 1)
    assert read(source, domain).cpu_delay_seconds == pytest.approx(before + 0.576645280)


def test_a_vcpu_that_gets_its_name_late_is_counted(recorded: Recorded, source: KernelSource, procfs: Path) -> None:
    """QEMU makes a vCPU's thread first and names it then; a scrape may fall between."""
    domain, name = recorded.domain("web"), procfs / "1201" / "task" / "1208" / "comm"
    name.write_text("qemu-system-x86\n")
    assert read(source, domain).vcpu_seconds == pytest.approx(7.99)
    name.write_text("CPU 1/KVM\n")
    assert read(source, domain).vcpu_seconds == pytest.approx(11.98)


class TestWithoutSchedulerStatistics:
    """A kernel that does not count how long threads wait. What vCPUs ran is counted in ticks all the same."""

    @pytest.fixture(autouse=True)
    def _ticks(self, procfs: Path) -> None:
        for thread, ticks in (("1207", 799), ("1208", 399)):
            fields = ["S", *["0"] * 10, str(ticks), "0", *["0"] * 4, "4", "0", "777", "0", "10", *["0"] * 28]
            (procfs / "1201/task" / thread / "stat").write_text(f"{thread} (CPU 0/KVM) {' '.join(fields)}\n")

    def check(self, recorded: Recorded, source: KernelSource) -> None:
        usage = read(source, recorded.domain("web"))
        assert usage.cpu_delay_seconds is None
        assert usage.vcpu_seconds == pytest.approx(11.98)
        assert usage.cpu_seconds == pytest.approx(12.14)

    def test_that_writes_zeros(self, recorded: Recorded, source: KernelSource, procfs: Path) -> None:
        for thread in ("1207", "1208"):
            (procfs / "1201/task" / thread / "schedstat").write_text("0 0 0\n")
        self.check(recorded, source)

    def test_that_has_no_file(self, recorded: Recorded, source: KernelSource, procfs: Path) -> None:
        for thread in ("1207", "1208"):
            (procfs / "1201/task" / thread / "schedstat").unlink()
        self.check(recorded, source)


def test_a_process_without_vcpus_has_no_cpu_time_of_the_domain(
    recorded: Recorded, source: KernelSource, procfs: Path
) -> None:
    for thread in ("1207", "1208"):
        shutil.rmtree(procfs / "1201/task" / thread)
    usage = read(source, recorded.domain("web"))
    assert (usage.cpu_seconds, usage.vcpu_seconds, usage.cpu_delay_seconds) == (None, None, None)


def test_a_process_that_ends_keeps_its_cpu_time_though_its_vcpus_are_gone(recorded: Recorded, procfs: Path) -> None:
    domain, clock = recorded.domain("web"), FakeClock()
    source = KernelSource(procfs, recorded.run, clock)
    source.follow(recorded.inventory.domains)
    read(source, domain)
    for thread in ("1207", "1208"):
        shutil.rmtree(procfs / "1201/task" / thread)
    _change_thread_count(procfs / "1201" / "stat", -2)
    assert read(source, domain).cpu_seconds == pytest.approx(12.14)
    clock.at += NAMING_SECONDS + 1
    assert source.wrapped(domain) is False


def _change_thread_count(stat: Path, by: int) -> None:
    head, _, rest = stat.read_text().rpartition(")")
    fields = rest.split()
    fields[17] = str(int(fields[17]) + by)
    stat.write_text(f"{head}) {' '.join(fields)}\n")


def test_descriptors_are_let_go_with_their_domains(recorded: Recorded, source: KernelSource) -> None:
    def open_here() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = open_here()
    source.follow(())
    assert open_here() == before - 3


@given(st.lists(st.dictionaries(st.sampled_from("0123"), st.integers(0, 10**15), max_size=4), max_size=20))
def test_the_sum_of_vcpus_never_goes_backwards(readings: list[dict[str, int]]) -> None:
    total, last = VcpuSum(), 0
    for reading in readings:
        now = total.add(reading)
        assert now >= last
        last = now


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=9), st.integers(1, 20))
def test_the_sum_of_vcpus_is_the_plain_sum_while_no_vcpu_goes(first: list[int], steps: int) -> None:
    total = VcpuSum()
    for step in range(steps):
        reading = {str(vcpu): value + step for vcpu, value in enumerate(first)}
        assert total.add(reading) == sum(reading.values())


@given(st.text(st.characters(blacklist_characters="\0", codec="utf-8"), max_size=15))
def test_a_command_may_be_called_anything(name: str) -> None:
    fields = ["S", *["0"] * 10, "150", "50", *["0"] * 4, "3", "0", "777", "0", "10", *["0"] * 28]
    stat = parse_stat(f"42 ({name}) {' '.join(fields)}\n".encode())
    assert (stat.cpu_seconds, stat.threads, stat.resident_bytes) == (2.0, 3, 10 * 4096)


@pytest.mark.parametrize(
    ("name", "vcpu"),
    [
        ("CPU 0/KVM", True),
        ("CPU 12/TCG", True),
        ("ALL CPUs/TCG", True),
        ("CPU", False),
        ("worker", False),
        ("IO mon_iothread", False),
    ],
)
def test_vcpu_threads_are_known_by_their_names(name: str, vcpu: bool) -> None:
    assert is_vcpu(name) is vcpu


def test_small_parsers() -> None:
    assert parse_schedstat(b"7990000000 1423354720 77\n") == (7990000000, 1423354720)
    assert uuid_of(b"qemu\0-uuid\x00178a5bcc\0-S\0") == "178a5bcc"
    assert uuid_of(b"qemu\0-name\0-uuid") == ""
    assert parse_netdev("h\nh\n  eth0:1 0 0 0 0 0 0 0 2 0\n")["eth0"].sent.bytes == 2
    assert parse_default_route("Iface Destination\n") == ""


@pytest.mark.parametrize(
    ("uri", "folder"),
    [
        ("qemu:///system", "/run/libvirt/qemu"),
        ("qemu+unix:///system?socket=/run/x.sock", "/run/libvirt/qemu"),
        ("qemu:///embed?root=/srv/vms", "/srv/vms/run/qemu"),
        ("qemu+ssh://host/system", None),
        ("qemu+tcp://10.77.0.1/system", None),
        ("test:///default", None),
        ("xen:///system", None),
    ],
)
def test_only_domains_of_this_machine_are_looked_for_in_proc(uri: str, folder: Path) -> None:
    assert state_folder(uri) == (Path(folder) if folder else None)


class TestChoice:
    """Which source tells what the domains use."""

    def choice(self, recorded: Recorded, procfs: Path | None) -> SourceChoice:
        kernel = KernelSource(procfs, recorded.run) if procfs else None
        return SourceChoice(kernel, LibvirtSource(recorded.ask))

    def test_the_kernel_where_processes_can_be_read(self, recorded: Recorded, procfs: Path) -> None:
        choice = self.choice(recorded, procfs)
        choice.follow(recorded.inventory.domains)
        assert choice.source.name == "kernel"

    def test_libvirt_where_proc_is_hidden(self, recorded: Recorded, tmp_path: Path) -> None:
        choice = self.choice(recorded, tmp_path)
        for _ in range(3):
            choice.follow(recorded.inventory.domains)
        assert choice.source.name == "libvirt"
        assert "proc root" in choice.reason

    def test_it_is_told_at_start_also_where_there_is_nothing_to_decide(
        self, recorded: Recorded, procfs: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO", "virtpoise_exporter")
        self.choice(recorded, None).log_choice()
        self.choice(recorded, procfs).log_choice()
        assert caplog.messages == [
            "the domains' usage is read from source libvirt: libvirt is on another machine",
            "the domains' usage is read from source kernel: no domain's process has been seen yet",
        ]

    def test_it_is_told_once(self, recorded: Recorded, procfs: Path, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level("INFO", "virtpoise_exporter")
        choice = self.choice(recorded, procfs)
        choice.follow(recorded.inventory.domains)
        choice.log_choice()
        assert caplog.messages == ["the domains' usage is read from source kernel: the domains' processes can be read"]

    def test_libvirt_for_another_machine(self, recorded: Recorded) -> None:
        choice = self.choice(recorded, None)
        choice.follow(recorded.inventory.domains)
        assert choice.source.name == "libvirt"

    def test_a_process_that_is_found_late_is_waited_for(self, recorded: Recorded, procfs: Path, tmp_path: Path) -> None:
        hidden = procfs.rename(tmp_path / "hidden")
        choice = self.choice(recorded, procfs)
        choice.follow(recorded.inventory.domains)
        hidden.rename(procfs)
        choice.follow(recorded.inventory.domains)
        assert choice.source.name == "kernel"

    def test_a_domain_whose_emulator_has_a_wrapper_is_read_from_libvirt_and_named(
        self, recorded: Recorded, procfs: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        for thread in ("1207", "1208"):
            shutil.rmtree(procfs / "1201/task" / thread)
        web, other = recorded.domain("web"), recorded.domain("arriving")
        stats = {web.uuid: {"cpu.time": 5_000_000_000, "vcpu.0.time": 4_000_000_000, "vcpu.0.delay": 1}}
        asked: list[list[str]] = []

        def ask(domains: Sequence[Domain], _seconds: float) -> Answer:
            asked.append([domain.name for domain in domains])
            return Answer(stats)

        clock = FakeClock()
        choice = SourceChoice(KernelSource(procfs, recorded.run, clock), LibvirtSource(ask))
        choice.follow(recorded.inventory.domains)
        assert choice.read([web, other], 1.0)[web.uuid].cpu_seconds is None  # its threads may get their names yet
        assert asked == []
        clock.at += NAMING_SECONDS + 1
        for _ in range(2):
            choice.follow(recorded.inventory.domains)
        usages = choice.read([web, other], 1.0)
        assert usages[web.uuid].cpu_seconds == 5.0
        assert usages[other.uuid].cpu_seconds == pytest.approx(0.15)
        assert asked == [["web"]]
        assert [message for message in caplog.messages if "domain web runs no vCPU" in message] == caplog.messages[-1:]

    def test_once_chosen_it_stays(self, recorded: Recorded, procfs: Path) -> None:
        choice = self.choice(recorded, procfs)
        choice.follow(recorded.inventory.domains)
        shutil.rmtree(procfs)
        for _ in range(5):
            choice.follow(recorded.inventory.domains)
        assert choice.source.name == "kernel"
