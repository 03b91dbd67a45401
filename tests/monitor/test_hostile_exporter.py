"""One host's exporter gives every metric several times, with unexpected labels, on a real Prometheus.

PromQL fails as a whole where a label makes two series one, or a match ambiguous: one host would blind the balancer and
silence the alerts of all.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from filled_prometheus import filled_prometheus
from virtpoise_balancer.monitor.queries import QUERIES, Ranges, render
from virtpoise_dashboards.__main__ import FOLDER
from virtpoise_exporter import metrics
from virtpoise_exporter.exposition import Metric

pytestmark = pytest.mark.hostile

ALERTS = Path(__file__).parents[2] / "alerts"
END = float((int(time.time()) - 6 * 3600) // 10 * 10)  # so long ago that it lies in a block of its own
SCRAPES = [END - 10 * back for back in range(60, -1, -1)]
RANGES = Ranges.of(step_seconds=10, scrape_interval_seconds=10, consecutive=3, saturation_ratio=0.9)
EXPORTER, BALANCER = 'job="virtpoise-exporter"', 'job="virtpoise-balancer"'
HOSTILE = "h3:9807"
METRICS = [found for found in vars(metrics).values() if isinstance(found, Metric)]
# Every label that a query, a rule or a dashboard joins, groups or replaces by.
LABELS = sorted({name for metric in METRICS for name in metric.labels} | {"host", "role", "result", "extra", "source"})
USUAL = {"mode": "idle", "state": "active", "device": "eth0", "uplink": "eth0", "uuid": "u", "domain": "a"}


@dataclass(frozen=True)
class Line:
    name: str
    labels: str
    slope: float


def honest(instance: str) -> list[Line]:
    """An exporter's metrics, each once, but for CPU time, which has two modes."""
    lines = []
    for metric in METRICS:
        for mode in ("idle", "user") if "mode" in metric.labels else ("",):
            values = {**USUAL, "mode": mode, "uuid": f"u-{instance}", "host_uuid": instance}
            own = ",".join(f'{name}="{values.get(name, "x")}"' for name in metric.labels)
            lines.append(Line(metric.name, f'{EXPORTER},instance="{instance}"{"," if own else ""}{own}', 1.0))
    return lines


def hostile() -> list[Line]:
    """The same of one host, and again with each label that it may add or change: all but its job and instance."""
    lines = honest(HOSTILE)
    for label in LABELS:
        for value in ("1", "2"):
            for metric in METRICS:
                given = {name: USUAL.get(name, "x") for name in metric.labels} | {label: value}
                own = ",".join(f'{name}="{text}"' for name, text in given.items())
                lines.append(Line(metric.name, f'{EXPORTER},instance="{HOSTILE}",{own}', 1.0))
    return lines


def exposition(lines: list[Line]) -> str:
    text: list[str] = []
    kinds = {metric.name: metric.kind for metric in METRICS}
    by_name: dict[str, dict[str, float]] = {}
    for line in lines:
        by_name.setdefault(line.name, {})[line.labels] = line.slope
    for name, series in by_name.items():
        is_counter = kinds[name] == "counter"
        text.append(f"# TYPE {name.removesuffix('_total') if is_counter else name} {kinds[name]}")
        for labels, slope in series.items():
            text += [f"{name}{{{labels}}} {(at - SCRAPES[0]) * slope if is_counter else slope} {at}" for at in SCRAPES]
    return "\n".join([*text, "# EOF\n"])


@pytest.fixture(scope="module")
def urls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """A Prometheus with two honest hosts, and one with a hostile third beside them."""
    both = [*honest("h1:9807"), *honest("h2:9807")]
    folders = (tmp_path_factory.mktemp("honest"), tmp_path_factory.mktemp("hostile"))
    with (
        filled_prometheus(exposition(both), folders[0]) as before,
        filled_prometheus(exposition([*both, *hostile()]), folders[1]) as after,
    ):
        yield before, after


def ask(url: str, query: str) -> list[dict[str, Any]]:
    with requests.Session() as session:
        session.trust_env = False
        answer = session.post(f"{url}/api/v1/query", data={"query": query, "time": END}, timeout=60).json()
    assert answer["status"] == "success", answer["error"]
    found: list[dict[str, Any]] = answer["data"]["result"]
    return found


def of_others(url: str, query: str) -> list[tuple[list[tuple[str, str]], str]]:
    """What a query answers about all but the hostile host, in an order of its own."""
    return sorted(
        (sorted(one["metric"].items()), one["value"][1])
        for one in ask(url, query)
        if one["metric"].get("instance") != HOSTILE and one["metric"].get("host") != "h3"
    )


@pytest.mark.parametrize("name", QUERIES)
def test_the_balancer_sees_the_other_hosts_as_before(urls: tuple[str, str], name: str) -> None:
    query = render(QUERIES[name], RANGES, EXPORTER)
    before, after = urls
    assert of_others(after, query) == of_others(before, query)
    assert of_others(before, query) or name in ("domain_paused", "host_domains_inactive")


def of_a_panel(expr: str) -> str:
    """A panel's query with everything chosen, over a minute."""
    for variable, value in (("__rate_interval", "60s"), ("__interval", "60s"), ("__range_s", "60"), ("__range", "60s")):
        expr = re.sub(rf"\${variable}\b", value, expr)
    return re.sub(r"\$\w+", ".*", expr)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_each_panel_shows_the_other_hosts(urls: tuple[str, str], path: Path) -> None:
    panels = json.loads(path.read_text())["panels"]
    targets = [
        target for panel in panels for inner in (panel, *panel.get("panels", ())) for target in inner.get("targets", ())
    ]
    assert targets
    for target in targets:
        ask(urls[1], of_a_panel(target["expr"]))


def rules() -> dict[str, str]:
    found = [
        rule
        for path in (ALERTS / "recording.rules.yml", ALERTS / "alerts.rules.yml")
        for group in yaml.safe_load(path.read_text())["groups"]
        for rule in group["rules"]
    ]
    return {rule.get("record") or rule["alert"]: rule["expr"] for rule in found}


RULES = rules()


@pytest.mark.parametrize("name", RULES)
def test_each_rule_says_of_the_other_hosts_what_it_said(urls: tuple[str, str], name: str) -> None:
    before, after = urls
    assert of_others(after, RULES[name]) == of_others(before, RULES[name])
    labels = [
        tuple(sorted((k, v) for k, v in one["metric"].items() if k != "__name__")) for one in ask(after, RULES[name])
    ]
    assert len(set(labels)) == len(labels)  # else Prometheus drops all that the rule found
