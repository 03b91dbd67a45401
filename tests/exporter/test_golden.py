"""The whole exposition of a recorded host, word for word. A difference here is a difference in the metrics' contract.

After a change that is meant: `VIRTPOISE_WRITE_GOLDEN=1 pytest tests/exporter/test_golden.py`, and read the difference.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from virtpoise_exporter import metrics
from virtpoise_exporter.choice import SourceChoice
from virtpoise_exporter.collectors.balloon import BalloonCollector
from virtpoise_exporter.collectors.block import BlockCollector
from virtpoise_exporter.collectors.cpu import CpuCollector
from virtpoise_exporter.collectors.domains import DomainsCollector
from virtpoise_exporter.collectors.libvirt import LibvirtCollector
from virtpoise_exporter.collectors.memory import MemoryCollector
from virtpoise_exporter.collectors.network import NetworkCollector
from virtpoise_exporter.collectors.numa import NumaCollector
from virtpoise_exporter.collectors.pressure import PressureCollector
from virtpoise_exporter.collectors.speed import SpeedCollector
from virtpoise_exporter.kernel.domains import KernelSource
from virtpoise_exporter.kernel.topology import TopologyKeeper
from virtpoise_exporter.scrape import Scraper
from virtpoise_exporter.virt.source import LibvirtSource

GOLDEN = Path(__file__).parent / "golden" / "metrics.txt"
PROMTOOL = shutil.which("promtool") or "/var/cache/virtpoise-lab/prometheus/usr/bin/promtool"


@pytest.fixture
def exposition(recorded, link, tmp_path) -> str:
    topology = TopologyKeeper(recorded.procfs, recorded.sysfs, {"eth2": 125_000_000.0})
    topology.refresh()
    choice = SourceChoice(KernelSource(recorded.procfs, recorded.run), LibvirtSource(recorded.ask))
    choice.follow(recorded.inventory.domains)
    slow = (BlockCollector(link, recorded.ask), BalloonCollector(link, recorded.ask))
    for collector in slow:
        collector.facts.refresh()
    scraper = Scraper(
        (
            CpuCollector(),
            MemoryCollector(),
            NetworkCollector(topology, recorded.procfs),
            PressureCollector(recorded.procfs),
            NumaCollector(recorded.sysfs),
            SpeedCollector(1.25, recorded.procfs, tmp_path),
            LibvirtCollector(link),
            DomainsCollector(link, choice, topology),
            *slow,
        )
    )
    text = scraper.scrape(5.0).decode()
    return re.sub(r"(?m)^(virtpoise_\S*_(?:duration|age|stale)_seconds\{.*\}) .*$", r"\1 0", text)


def test_a_recorded_host_comes_out_word_for_word(exposition):
    if os.environ.get("VIRTPOISE_WRITE_GOLDEN"):
        GOLDEN.write_text(exposition)
    assert exposition == GOLDEN.read_text()


def test_every_metric_of_the_table_is_served_and_none_besides(exposition):
    served = re.findall(r"(?m)^# TYPE (\S+) ", exposition)
    assert sorted(served) == sorted(metric.name for metric in metrics.ALL)
    assert len(served) == len(set(served))


@pytest.mark.skipif(not Path(PROMTOOL).exists(), reason="promtool is not installed")
def test_promtool_finds_nothing_to_complain_of(exposition):
    checked = subprocess.run(
        [PROMTOOL, "check", "metrics"], input=exposition, capture_output=True, text=True, timeout=60
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
