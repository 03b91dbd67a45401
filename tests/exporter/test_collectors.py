"""What is shown when, and what is left out."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import FakeClock
from exporter.recording import RECORDED, Recorded, RecordedLink
from virtpoise_exporter.choice import SourceChoice
from virtpoise_exporter.collectors import slow, speed
from virtpoise_exporter.collectors.balloon import BalloonCollector
from virtpoise_exporter.collectors.block import BlockCollector
from virtpoise_exporter.collectors.cpu import CpuTimes, parse_cpus
from virtpoise_exporter.collectors.domains import DomainsCollector
from virtpoise_exporter.collectors.libvirt import LibvirtCollector
from virtpoise_exporter.collectors.memory import MemoryCollector, reclaimable
from virtpoise_exporter.collectors.numa import NumaCollector, count_cpus
from virtpoise_exporter.collectors.pressure import PressureCollector
from virtpoise_exporter.collectors.speed import SpeedCollector, measure
from virtpoise_exporter.collectors.staleness import Staleness
from virtpoise_exporter.exposition import render
from virtpoise_exporter.kernel.process import TICKS
from virtpoise_exporter.kernel.topology import TopologyKeeper
from virtpoise_exporter.scrape import Collector
from virtpoise_exporter.usage import Flow, Traffic, Usage
from virtpoise_exporter.virt.model import STATES, Domain, state_words
from virtpoise_exporter.virt.stats import Answer


def page(collector: Collector) -> str:
    return render(collector.collect(5.0)).decode()


def stale(text: str, domain: str, collector: str) -> bool:
    labels = rf'domain="{domain}",uuid="[^"]*",collector="{collector}"'
    return re.search(rf"^virtpoise_domain_stale_seconds{{{labels}}} ", text, re.MULTILINE) is not None


class TestLibvirtGone:
    """A value without a source is left out; what does not age stays."""

    def test_after_it_was_there(self, link: RecordedLink) -> None:
        link.up = False
        text = page(LibvirtCollector(link, RECORDED / "proc"))
        assert "virtpoise_libvirt_up 0\n" in text
        assert "virtpoise_host_info{" in text
        assert "virtpoise_domain_running" not in text
        assert "virtpoise_domains{" not in text

    def test_its_domains_are_counted_and_as_old_as_the_last_list(self, link: RecordedLink) -> None:
        clock = FakeClock()
        collector = LibvirtCollector(link, RECORDED / "proc", clock)
        assert 'virtpoise_exporter_stale_domains{collector="libvirt"} 0\n' in page(collector)
        link.up = False
        assert link.listed is not None
        clock.at = link.listed.taken_at + 12.5
        text = page(collector)
        assert 'virtpoise_exporter_stale_domains{collector="libvirt"} 4\n' in text
        assert text.count('collector="libvirt"} 12.5\n') == 5  # each of them, and the list itself

    def test_before_it_ever_was(self, link: RecordedLink) -> None:
        link.listed, link.up = None, False
        text = page(LibvirtCollector(link, RECORDED / "proc"))
        assert "virtpoise_libvirt_up 0\n" in text
        assert "virtpoise_host_info{" not in text


class TestSlowFacts:
    @pytest.fixture
    def clock(self) -> FakeClock:
        return FakeClock()

    def test_they_are_shown_with_their_age_while_they_are_fresh(
        self, recorded: Recorded, link: RecordedLink, clock: FakeClock
    ) -> None:
        collector = BlockCollector(link, recorded.ask, clock)
        collector.facts.refresh()
        clock.at += 29
        text = page(collector)
        assert 'virtpoise_domain_block_read_bytes_total{domain="web"' in text
        assert 'virtpoise_exporter_collector_data_age_seconds{collector="block"} 29' in text

    def test_they_are_left_out_and_counted_when_they_are_old(
        self, recorded: Recorded, link: RecordedLink, clock: FakeClock
    ) -> None:
        collector = BlockCollector(link, recorded.ask, clock)
        collector.facts.refresh()
        page(collector)
        clock.at += 31
        text = page(collector)
        assert "virtpoise_domain_block_read_bytes_total" not in text
        assert 'virtpoise_exporter_stale_domains{collector="block"} 2\n' in text
        assert "virtpoise_domain_stale_seconds{" in text

    def test_many_domains_are_asked_less_often(self, recorded: Recorded, link: RecordedLink, clock: FakeClock) -> None:
        def ask(domains: Sequence[Domain], seconds: float) -> Answer:
            return replace(recorded.ask(domains, seconds), seconds=1.0)

        collector = BlockCollector(link, ask, clock)
        collector.facts.refresh()
        clock.at += 99  # asking took 1 s, so it is done every 50 s
        assert "virtpoise_domain_block_read_bytes_total" in page(collector)

    def test_nobody_is_asked_while_libvirt_is_gone(self, link: RecordedLink) -> None:
        link.up = False

        def ask(_domains: Sequence[Domain], _seconds: float) -> Answer:
            raise AssertionError

        assert BlockCollector(link, ask).facts.refresh() == slow.RETRY_SECONDS

    def test_they_are_asked_for_once_a_minute_however_long_it_takes(
        self, recorded: Recorded, link: RecordedLink
    ) -> None:
        collector = BlockCollector(
            link, lambda domains, seconds: replace(recorded.ask(domains, seconds), seconds=1000.0)
        )
        assert collector.facts.refresh() == 60

    def test_a_question_that_hung_is_asked_again_soon(self, recorded: Recorded, link: RecordedLink) -> None:
        collector = BlockCollector(
            link, lambda domains, seconds: replace(recorded.ask(domains, seconds), seconds=1.0, complete=False)
        )
        assert collector.facts.refresh() == 15

    def test_a_disk_that_is_no_longer_listed_is_missed(self, recorded: Recorded, link: RecordedLink) -> None:
        """libvirt answers for a domain that is busy without what it would have to ask QEMU for."""
        answer, domain = recorded.ask(recorded.inventory.domains, 1.0), recorded.domain("web")
        missing = {key: value for key, value in answer.stats[domain.uuid].items() if key != "block.0.rd.bytes"}
        answers = [answer, Answer({**answer.stats, domain.uuid: missing}, seconds=1.0)]
        collector = BlockCollector(link, lambda _domains, _seconds: answers.pop(0))
        collector.facts.refresh()
        assert stale(page(collector), "web", "block") is False
        assert collector.facts.refresh() == 15  # and asked for again soon
        text = page(collector)
        assert stale(text, "web", "block") is True
        assert 'virtpoise_domain_block_read_bytes_total{domain="web"' not in text
        assert 'virtpoise_domain_block_written_bytes_total{domain="web"' in text


class TestBalloon:
    """QEMU repeats what a guest said last, for ever."""

    NOW = 1000

    def page(self, recorded: Recorded, link: RecordedLink, stats: dict[str, int]) -> str:
        domain = recorded.domain("web")
        answer = Answer({domain.uuid: {"balloon.usable": 1024, **stats}})
        collector = BalloonCollector(link, lambda _domains, _seconds: answer, FakeClock(self.NOW))
        collector.facts.refresh()
        return page(collector)

    @pytest.mark.parametrize("age", [0, 40])
    def test_what_the_guest_said_lately_is_shown(self, recorded: Recorded, link: RecordedLink, age: int) -> None:
        text = self.page(recorded, link, {"balloon.last-update": self.NOW - age})
        assert 'virtpoise_domain_memory_usable_bytes{domain="web"' in text
        assert stale(text, "web", "balloon") is False

    def test_a_guest_with_an_old_driver_shows_what_it_reports(self, recorded: Recorded, link: RecordedLink) -> None:
        domain = recorded.domain("web")
        answer = Answer({domain.uuid: {"balloon.unused": 7, "balloon.last-update": self.NOW}})
        collector = BalloonCollector(link, lambda _domains, _seconds: answer, FakeClock(self.NOW))
        collector.facts.refresh()
        text = page(collector)
        assert f'virtpoise_domain_memory_unused_bytes{{domain="web",uuid="{domain.uuid}"}} 7168\n' in text
        assert "virtpoise_domain_memory_usable_bytes" not in text
        assert stale(text, "web", "balloon") is False

    @pytest.mark.parametrize("stats", [{"balloon.last-update": NOW - 41}, {"balloon.last-update": 0}, {}])
    def test_what_the_guest_said_long_ago_is_left_out_and_counted(
        self, recorded: Recorded, link: RecordedLink, stats: dict[str, int]
    ) -> None:
        """Asked for every 15 s, and reported by the guest every 10 s."""
        text = self.page(recorded, link, stats)
        assert "virtpoise_domain_memory_usable_bytes" not in text
        assert stale(text, "web", "balloon") is True


class TestPartOfADomain:
    """Figures that a domain had earlier in this life are missed; those it never had are not."""

    FULL = Usage(1.0, 1.0, 0.5, 4096, {"vnet0": Traffic(Flow(1), Flow(2))})

    def collect(self, recorded: Recorded, link: RecordedLink, *usages: Usage) -> str:
        domain, answers = recorded.domain("web"), list(usages)

        class Told:
            name = "told"

            def read(self, _domains: Sequence[Domain], _seconds: float) -> dict[str, Usage]:
                return {domain.uuid: answers.pop(0)}

        topology = TopologyKeeper(recorded.procfs, recorded.sysfs, {})
        collector = DomainsCollector(link, SourceChoice(None, Told()), topology)
        return [page(collector) for _ in usages][-1]

    @pytest.mark.parametrize(
        "missing",
        [
            {"cpu_seconds": None},
            {"vcpu_seconds": None},
            {"cpu_delay_seconds": None},
            {"resident_bytes": None},
            {"traffic": {}},
        ],
    )
    def test_what_it_had_is_missed(self, recorded: Recorded, link: RecordedLink, missing: dict[str, Any]) -> None:
        assert stale(self.collect(recorded, link, self.FULL), "web", "domains") is False
        text = self.collect(recorded, link, self.FULL, replace(self.FULL, **missing))
        assert stale(text, "web", "domains") is True

    @pytest.mark.parametrize("part", [replace(FULL, cpu_seconds=None), replace(FULL, vcpu_seconds=None)])
    def test_a_domain_that_never_had_its_cpu_time_is_named(
        self, recorded: Recorded, link: RecordedLink, part: Usage
    ) -> None:
        text = self.collect(recorded, link, part)
        assert stale(text, "web", "domains") is True

    def test_it_is_missed_until_it_comes_back(self, recorded: Recorded, link: RecordedLink) -> None:
        part = replace(self.FULL, resident_bytes=None)
        assert stale(self.collect(recorded, link, self.FULL, part, part), "web", "domains") is True
        assert stale(self.collect(recorded, link, self.FULL, part, self.FULL), "web", "domains") is False

    def test_what_it_never_had_is_not_missed(self, recorded: Recorded, link: RecordedLink) -> None:
        part = replace(self.FULL, cpu_delay_seconds=None)
        assert stale(self.collect(recorded, link, part, part), "web", "domains") is False

    def test_a_device_that_was_unplugged_is_not_missed(self, recorded: Recorded, link: RecordedLink) -> None:
        before = replace(self.FULL, traffic={**self.FULL.traffic, "vnet99": Traffic(Flow(3), Flow(4))})
        assert stale(self.collect(recorded, link, before, self.FULL), "web", "domains") is False


def test_a_stale_domain_is_as_old_as_its_last_figures(recorded: Recorded) -> None:
    staleness, domain = Staleness("domains"), recorded.domain("web")
    staleness.judge([domain], {domain.uuid}, 100.0)
    text = render(staleness.judge([domain], set(), 107.5)).decode()
    assert f'virtpoise_domain_stale_seconds{{domain="web",uuid="{domain.uuid}",collector="domains"}} 7.5\n' in text


class TestCpuTime:
    """The host's CPU time over CPUs that go offline and come back."""

    def seconds(self, *texts: str) -> list[dict[str, float]]:
        """Seconds by mode after each reading of /proc/stat."""
        times = CpuTimes()
        modes = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
        return [
            dict(zip(modes, (ticks / TICKS for ticks in times.add(parse_cpus(text))), strict=True)) for text in texts
        ]

    CPU0 = "cpu0 1000 0 500 90000 100 0 0 0 0 0\n"
    CPU0_LATER = "cpu0 1100 0 500 90900 100 0 0 0 0 0\n"

    def test_a_cpu_that_comes_back_with_idle_from_zero_makes_no_host_idle(self) -> None:
        both = "cpu 2000 0 1000 180000 200 0 0 0 0 0\n" + self.CPU0 + "cpu1 1000 0 500 90000 100 0 0 0 0 0\nintr 5\n"
        offline = "cpu 2050 0 1000 90450 200 0 0 0 0 0\n" + self.CPU0_LATER + "intr 5\n"
        back = "cpu 2050 0 1000 91000 200 0 0 0 0 0\n" + self.CPU0_LATER + "cpu1 1000 0 500 100 0 0 0 0 0 0\nintr 5\n"
        before, while_offline, after = self.seconds(both, offline, back)
        assert while_offline["idle"] - before["idle"] == pytest.approx(900 / TICKS)
        assert while_offline["user"] - before["user"] == pytest.approx(100 / TICKS)
        assert after["idle"] - while_offline["idle"] == pytest.approx(100 / TICKS)
        assert after["iowait"] == while_offline["iowait"]

    def test_a_cpu_that_was_offline_at_the_start_counts_from_when_it_is_seen(self) -> None:
        worked = "cpu1 5000000 0 500 0 0 0 0 0 0 0\n"
        alone, joined, later = self.seconds(
            self.CPU0, self.CPU0 + worked, self.CPU0 + worked.replace("5000000", "5000100")
        )
        assert joined == alone
        assert later["user"] - joined["user"] == pytest.approx(100 / TICKS)

    @given(st.lists(st.dictionaries(st.sampled_from("0123"), st.integers(0, 10**9), min_size=1), max_size=20))
    def test_it_never_falls(self, readings: list[dict[str, int]]) -> None:
        times, last = CpuTimes(), [0] * 8
        for reading in readings:
            now = times.add({cpu: [ticks] * 8 for cpu, ticks in reading.items()})
            assert all(one <= other for one, other in zip(last, now, strict=True))
            last = now

    def test_a_counter_that_falls_by_a_few_ticks_stands_still(self) -> None:
        readings = self.seconds(*(f"cpu0 0 0 0 {ticks} 0 0 0 0 0 0\n" for ticks in (1000, 998, 1001)))
        assert [round(one["idle"] * TICKS) for one in readings] == [1000, 1000, 1001]

    @pytest.mark.parametrize(("seconds", "counted"), [(3, False), (4, True)])
    def test_a_counter_that_falls_by_more_than_three_seconds_was_reset(self, seconds: int, counted: bool) -> None:
        fallen = 9000 - seconds * TICKS
        readings = self.seconds(*(f"cpu0 0 0 0 {ticks} 0 0 0 0 0 0\n" for ticks in (9000, fallen, fallen + 100)))
        assert round((readings[2]["idle"] - readings[0]["idle"]) * TICKS) == (fallen + 100 if counted else 0)

    def test_a_file_without_a_cpu_is_refused(self) -> None:
        with pytest.raises(ValueError, match="no line of a CPU"):
            parse_cpus("cpu 1 2 3\nintr 5\n")


def test_every_state_of_libvirt_has_its_word() -> None:
    assert [word for word, _ in STATES] == [
        "no state",
        "running",
        "blocked",
        "paused",
        "shutdown",
        "shutoff",
        "crashed",
        "suspended",
    ]
    assert state_words(3, 11) == ("paused", "starting up")
    assert state_words(5, 4) == ("shutoff", "migrated")
    assert state_words(99, 7) == ("99", "7")
    assert state_words(1, 99) == ("running", "99")


@pytest.mark.parametrize(("text", "count"), [("0-3,8-11", 8), ("0", 1), ("", 0), ("\n", 0), ("1,3\n", 2)])
def test_a_list_of_cpus_is_counted(text: str, count: int) -> None:
    assert count_cpus(text) == count


# As OpenZFS 2.1 writes it, shortened.
ARCSTATS = """9 1 0x01 123 33456 3916124672 3921013465231
name                            type data
hits                            4    3291840
c                               4    105226698752
c_min                           4    4294967296
c_max                           4    134217728000
size                            4    105226698752
"""


class TestZfs:
    """The cache of ZFS on a host of 134 GB reads as 92 % of its memory in use."""

    def available(self, root: Path, arcstats: str | None) -> float:
        if arcstats is not None:
            (root / "spl/kstat/zfs").mkdir(parents=True)
            (root / "spl/kstat/zfs/arcstats").write_text(arcstats)
        text = page(MemoryCollector(root))
        return float(text.partition("\nvirtpoise_host_memory_available_bytes ")[2].split()[0])

    def test_what_zfs_gives_back_is_available(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "meminfo").write_text(
            "MemTotal: 131072000 kB\nMemFree: 10240000 kB\nMemAvailable: 10485760 kB\nBuffers: 0 kB\nCached: 1 kB\n"
            "Shmem: 0 kB\nActive: 0 kB\nInactive: 0 kB\n"
        )
        monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path))
        assert self.available(tmp_path, ARCSTATS) == 10485760 * 1024 + 105226698752 - 4294967296

    @pytest.mark.parametrize("arcstats", [None, "", "size 4 much\nc_min 4 5\n"])
    def test_a_host_without_zfs_has_what_its_kernel_counts(self, tmp_path: Path, arcstats: str | None) -> None:
        (tmp_path / "meminfo").write_text((RECORDED / "proc/meminfo").read_text())
        assert self.available(tmp_path, arcstats) == 23132760 * 1024

    def test_the_cache_is_no_part_of_the_pool_of_huge_pages(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """ZFS counts its cache and the kernel its memory at different moments: together they may pass what there is."""
        (tmp_path / "meminfo").write_text(
            "MemTotal: 131072000 kB\nMemFree: 0 kB\nMemAvailable: 10485760 kB\nBuffers: 0 kB\nCached: 1 kB\n"
            "Shmem: 0 kB\nActive: 0 kB\nInactive: 0 kB\nHugetlb: 100000000 kB\n"
        )
        monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path))
        assert self.available(tmp_path, ARCSTATS) == (131072000 - 100000000) * 1024

    def test_a_cache_at_its_minimum_gives_nothing_back(self) -> None:
        assert reclaimable("size 4 4294967296\nc_min 4 4294967297\n") == 0


def test_a_kernel_without_numa_has_its_huge_pages_on_node_0(tmp_path: Path) -> None:
    pool = tmp_path / "kernel/mm/hugepages/hugepages-2048kB"
    pool.mkdir(parents=True)
    (pool / "nr_hugepages").write_text("512\n")
    (pool / "free_hugepages").write_text("12\n")
    text = page(NumaCollector(tmp_path))
    assert 'virtpoise_host_hugepages_total{size="2097152",node="0"} 512\n' in text
    assert 'virtpoise_host_hugepages_free{size="2097152",node="0"} 12\n' in text


def test_a_kernel_without_huge_pages_is_no_failure(link: RecordedLink, tmp_path: Path) -> None:
    """Not even where a domain is defined that asks for them: it cannot run here."""
    assert page(NumaCollector(tmp_path)) == ""
    (tmp_path / "meminfo").write_text("MemTotal: 1 kB\n")
    text = page(LibvirtCollector(link, tmp_path))
    assert "virtpoise_libvirt_up 1\n" in text
    assert "virtpoise_domain_hugepages_bytes" not in text


def test_swap_space_that_the_kernel_does_not_tell_of_is_unknown(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 1 kB\nSwapTotal: 2 kB\n")
    text = page(MemoryCollector(tmp_path))
    assert "virtpoise_host_swap_total_bytes 2048\n" in text
    assert "virtpoise_host_swap_free_bytes " not in text


def test_a_kernel_without_pressure_is_no_failure(tmp_path: Path) -> None:
    assert page(PressureCollector(tmp_path)) == ""


@pytest.mark.parametrize("seconds", [None, 10.0])
def test_a_measured_speed_is_above_zero(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the flag must be: what a load is divided by."""
    monkeypatch.setattr(speed, "RUNS", 1)
    if seconds:  # as on the slowest of all machines
        monkeypatch.setattr(speed, "_run", lambda: seconds)
    assert measure() >= 0.05


class TestSpeed:
    @pytest.fixture(autouse=True)
    def measured(self, monkeypatch: pytest.MonkeyPatch) -> list[float]:
        """Its measurements so far; a real one takes seconds."""
        made: list[float] = []

        def measure() -> float:
            made.append(1.35)
            return 1.35

        monkeypatch.setattr(speed, "measure", measure)
        return made

    def find(self, recorded: Recorded, folder: Path) -> str:
        collector = SpeedCollector(None, recorded.procfs, folder)
        collector.find()
        return page(collector)

    def test_it_is_measured_once_and_kept(self, recorded: Recorded, tmp_path: Path, measured: list[float]) -> None:
        assert "virtpoise_host_cpu_speed_ratio 1.35\n" in self.find(recorded, tmp_path)
        assert "virtpoise_host_cpu_speed_ratio 1.35\n" in self.find(recorded, tmp_path)
        assert len(measured) == 1

    @pytest.mark.parametrize("kept", ["", "{}", '{"format": "virtpoise/cpu-speed/1", "ratio": 2}', "[1]"])
    def test_what_was_kept_of_another_cpu_or_is_broken_is_measured_anew(
        self, recorded: Recorded, tmp_path: Path, kept: str, measured: list[float]
    ) -> None:
        (tmp_path / "cpu-speed.json").write_text(kept)
        assert "virtpoise_host_cpu_speed_ratio 1.35\n" in self.find(recorded, tmp_path)
        assert "virtpoise_host_cpu_speed_ratio 1.35\n" in self.find(recorded, tmp_path)
        assert len(measured) == 1

    def test_a_folder_that_cannot_be_written_is_no_failure(self, recorded: Recorded, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        assert "virtpoise_host_cpu_speed_ratio 1.35\n" in self.find(recorded, tmp_path / "file" / "below")

    def test_a_configured_one_is_believed(self, recorded: Recorded, tmp_path: Path) -> None:
        assert "virtpoise_host_cpu_speed_ratio 1.5\n" in page(SpeedCollector(1.5, recorded.procfs, tmp_path))
