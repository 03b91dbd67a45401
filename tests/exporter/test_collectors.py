"""What is shown when, and what is left out."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virtpoise_exporter.collectors import slow, speed
from virtpoise_exporter.collectors.block import BlockCollector
from virtpoise_exporter.collectors.cpu import steady
from virtpoise_exporter.collectors.libvirt import LibvirtCollector
from virtpoise_exporter.collectors.numa import count_cpus
from virtpoise_exporter.collectors.pressure import PressureCollector
from virtpoise_exporter.collectors.speed import SpeedCollector
from virtpoise_exporter.collectors.staleness import Staleness
from virtpoise_exporter.exposition import render
from virtpoise_exporter.virt.model import STATES, state_words


def page(collector) -> str:
    return render(collector.collect(5.0)).decode()


class TestLibvirtGone:
    """What nobody stands behind any more is left out; what does not age stays."""

    def test_after_it_was_there(self, link):
        link.up = False
        text = page(LibvirtCollector(link))
        assert "virtpoise_libvirt_up 0\n" in text
        assert "virtpoise_host_info{" in text
        assert "virtpoise_domain_running" not in text
        assert "virtpoise_domains{" not in text

    def test_before_it_ever_was(self, link):
        link.listed, link.up = None, False
        text = page(LibvirtCollector(link))
        assert "virtpoise_libvirt_up 0\n" in text
        assert "virtpoise_host_info{" not in text


class TestSlowFacts:
    @pytest.fixture
    def now(self, monkeypatch):
        clock = [time.monotonic()]
        monkeypatch.setattr(slow.time, "monotonic", lambda: clock[0])
        return clock

    def test_they_are_shown_with_their_age_while_they_are_fresh(self, recorded, link, now):
        collector = BlockCollector(link, recorded.ask)
        collector.facts.refresh()
        now[0] += 29
        text = page(collector)
        assert 'virtpoise_domain_block_read_bytes_total{domain="web"' in text
        assert 'virtpoise_exporter_collector_data_age_seconds{collector="block"} 29' in text

    def test_they_are_left_out_and_counted_when_they_are_old(self, recorded, link, now):
        collector = BlockCollector(link, recorded.ask)
        collector.facts.refresh()
        page(collector)
        now[0] += 31
        text = page(collector)
        assert "virtpoise_domain_block_read_bytes_total" not in text
        assert 'virtpoise_exporter_stale_domains{collector="block"} 2\n' in text
        assert "virtpoise_domain_stale_seconds{" in text

    def test_many_domains_are_asked_less_often(self, recorded, link, now):
        def ask(domains, seconds):
            now[0] += 2.0
            return recorded.ask(domains, seconds)

        collector = BlockCollector(link, ask)
        collector.facts.refresh()
        now[0] += 150  # asking took 2 s, so it is done every 100 s
        assert "virtpoise_domain_block_read_bytes_total" in page(collector)

    def test_nobody_is_asked_while_libvirt_is_gone(self, link):
        link.up = False

        def ask(_domains, _seconds):
            raise AssertionError

        assert BlockCollector(link, ask).facts.refresh() is False


def test_a_stale_domain_is_as_old_as_its_last_figures(recorded):
    staleness, domain = Staleness("domains"), recorded.domain("web")
    staleness.judge([domain], {domain.uuid}, 100.0)
    text = render(staleness.judge([domain], set(), 107.5)).decode()
    assert f'virtpoise_domain_stale_seconds{{domain="web",uuid="{domain.uuid}",collector="domains"}} 7.5\n' in text


@given(st.lists(st.floats(0, 1e9, allow_nan=False), min_size=1))
def test_cpu_time_falls_only_if_it_begins_anew(readings):
    last = 0.0
    for reading in readings:
        now = steady(last, reading)
        assert now >= last or now == reading < last - 3.0
        last = now


def test_every_state_of_libvirt_has_its_word():
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
def test_a_list_of_cpus_is_counted(text, count):
    assert count_cpus(text) == count


def test_a_kernel_without_pressure_is_no_failure(tmp_path):
    assert page(PressureCollector(tmp_path)) == ""


class TestSpeed:
    @pytest.fixture(autouse=True)
    def measured(self, monkeypatch):
        """How often it was measured; the measurement itself takes seconds."""
        counted = []
        monkeypatch.setattr(speed, "measure", lambda: counted.append(1) or 1.35)
        return counted

    def find(self, recorded, folder) -> str:
        collector = SpeedCollector(None, recorded.procfs, folder)
        collector.find()
        return page(collector)

    def test_it_is_measured_once_and_kept(self, recorded, tmp_path, measured):
        assert "virtpoise_host_cpu_speed_ratio 1.35\n" in self.find(recorded, tmp_path)
        assert "virtpoise_host_cpu_speed_ratio 1.35\n" in self.find(recorded, tmp_path)
        assert len(measured) == 1

    @pytest.mark.parametrize("kept", ["", "{}", '{"format": "virtpoise/cpu-speed/1", "ratio": 2}', "[1]"])
    def test_what_was_kept_of_another_cpu_or_is_broken_is_measured_anew(self, recorded, tmp_path, kept, measured):
        (tmp_path / "cpu-speed.json").write_text(kept)
        assert "virtpoise_host_cpu_speed_ratio 1.35\n" in self.find(recorded, tmp_path)
        assert "virtpoise_host_cpu_speed_ratio 1.35\n" in self.find(recorded, tmp_path)
        assert len(measured) == 1

    def test_a_folder_that_cannot_be_written_is_no_failure(self, recorded, tmp_path):
        (tmp_path / "file").touch()
        assert "virtpoise_host_cpu_speed_ratio 1.35\n" in self.find(recorded, tmp_path / "file" / "below")

    def test_a_configured_one_is_believed(self, recorded, tmp_path):
        assert "virtpoise_host_cpu_speed_ratio 1.5\n" in page(SpeedCollector(1.5, recorded.procfs, tmp_path))
