"""What one part calls a metric, the other exports: the balancer's queries against the exporter's recorded output."""

import re
from pathlib import Path

import pytest

from virtpoise_balancer import __version__ as balancer_version
from virtpoise_balancer.monitor.matchers import EXAMPLE
from virtpoise_balancer.monitor.queries import QUERIES, Ranges, render
from virtpoise_docs.balancer_metrics import balancer_metrics
from virtpoise_exporter import __version__ as exporter_version

ROOT = Path(__file__).parents[2]
PAGES = [
    *ROOT.glob("*.md"),
    *(page for folder in ("docs", "alerts", "grafana", "lab") for page in (ROOT / folder).rglob("*.md")),
]
PACKAGES = {path.name for path in ROOT.glob("*/virtpoise_*")}
EXPOSED = (ROOT / "tests" / "exporter" / "golden" / "metrics.txt").read_text(encoding="utf-8")


def labels_of(metric: str) -> set[str]:
    """The labels that the exporter puts on a metric."""
    found = re.findall(rf"^{metric}(?:{{(.*)}})? ", EXPOSED, re.MULTILINE)
    return {name for labels in found for name in re.findall(r'(\w+)="', labels)}


@pytest.mark.parametrize("name", QUERIES)
def test_every_metric_and_label_of_a_query_is_exported(name: str) -> None:
    query = QUERIES[name]
    metrics = re.findall(r"virtpoise_\w+", query)
    assert metrics
    for metric in metrics:
        assert re.search(rf"^{metric}[ {{]", EXPOSED, re.MULTILINE), f"{metric} is not exported"
        for label in re.findall(rf"{metric}{{(\w+)", query):
            assert label in labels_of(metric)
    if name.startswith("domain_"):
        assert "uuid" in labels_of(metrics[0])


def test_every_metric_that_a_page_names_is_exported() -> None:
    exported = set(re.findall(r"^# TYPE (\w+)", EXPOSED, re.MULTILINE))
    exported |= set(re.findall(r"^\| `(\w+)`", balancer_metrics(), re.MULTILINE))
    for page in PAGES:
        named = set(re.findall(r"(?<![\w:/.-])virtpoise_\w+(?![\w:/-])", page.read_text(encoding="utf-8")))
        assert named - exported - PACKAGES == set(), page.name


@pytest.mark.parametrize("name", QUERIES)
def test_no_range_is_left_to_be_filled_in(name: str) -> None:
    rendered = render(
        QUERIES[name],
        Ranges.of(step_seconds=10, scrape_interval_seconds=10, consecutive=3, saturation_ratio=0.9),
        EXAMPLE,
    )
    assert "$" not in rendered.replace('"$1"', "")


def test_the_parts_and_the_distribution_have_one_version() -> None:
    stated = re.search(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert stated
    assert stated[1] == balancer_version == exporter_version
