"""The whole exposition of a recorded host, word for word. A difference here is a difference in the metrics' contract.

After a change that is meant: `VIRTPOISE_WRITE_GOLDEN=1 pytest tests/exporter/test_golden.py`, and read the difference.
"""

import os
import re
from pathlib import Path

import pytest

from exporter.lint import PROMTOOL, complaints
from exporter.recording import Recorded, RecordedLink
from virtpoise_exporter import metrics
from virtpoise_exporter.choice import SourceChoice
from virtpoise_exporter.collectors import TOPICS
from virtpoise_exporter.collectors.balloon import BalloonCollector
from virtpoise_exporter.collectors.block import BlockCollector
from virtpoise_exporter.collectors.build import Parts, build
from virtpoise_exporter.kernel.domains import KernelSource
from virtpoise_exporter.kernel.topology import TopologyKeeper
from virtpoise_exporter.scrape import Scraper
from virtpoise_exporter.virt.source import LibvirtSource

GOLDEN = Path(__file__).parent / "golden" / "metrics.txt"


@pytest.fixture
def exposition(recorded: Recorded, link: RecordedLink, tmp_path: Path) -> str:
    topology = TopologyKeeper(recorded.procfs, recorded.sysfs, {"eth2": 125_000_000.0})
    topology.refresh()
    choice = SourceChoice(KernelSource(recorded.procfs, recorded.run), LibvirtSource(recorded.ask))
    choice.follow(recorded.inventory.domains)
    parts = Parts(
        procfs=recorded.procfs,
        sysfs=recorded.sysfs,
        state=tmp_path,
        cpu_speed=1.25,
        link=link,
        statistics=lambda _groups: recorded.ask,
        choice=choice,
        topology=topology,
    )
    collectors = build([topic.name for topic in TOPICS], parts)
    assert [collector.name for collector in collectors] == [topic.name for topic in TOPICS]
    for collector in collectors:
        if isinstance(collector, BlockCollector | BalloonCollector):
            collector.facts.refresh()
    scraper = Scraper(collectors)
    text = scraper.scrape(5.0).decode()
    return re.sub(r"(?m)^(virtpoise_\S*_(?:duration|age|stale)_seconds\{.*\}) .*$", r"\1 0", text)


def test_a_recorded_host_comes_out_word_for_word(exposition: str) -> None:
    if os.environ.get("VIRTPOISE_WRITE_GOLDEN"):
        GOLDEN.write_text(exposition)
    assert exposition == GOLDEN.read_text()


def test_every_metric_of_the_table_is_served_and_none_besides(exposition: str) -> None:
    served = re.findall(r"(?m)^# TYPE (\S+) ", exposition)
    assert sorted(served) == sorted(metric.name for metric in metrics.ALL)
    assert len(served) == len(set(served))


@pytest.mark.skipif(not PROMTOOL.exists(), reason="promtool is not installed")
def test_promtool_finds_nothing_to_complain_of(exposition: str) -> None:
    assert complaints(exposition.encode()) == []
