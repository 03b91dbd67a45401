"""Every query of dashboards and rules on a real run: real hosts, exporters, Prometheus and balancer, and a real
migration.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import libvirt
import pytest
import requests
import yaml

from virtpoise_balancer.monitor.queries import QUERIES
from virtpoise_dashboards.__main__ import FOLDER
from virtpoise_lab import requirements
from virtpoise_lab.balancer import Balancer
from virtpoise_lab.lab import Lab
from virtpoise_lab.model import DomainSpec, Load
from virtpoise_lab.stack import Stack
from virtpoise_preview.document import draw_list, legend_labels, marks, read
from virtpoise_preview.prometheus import Prometheus, Source, Span
from virtpoise_preview.variables import options_of, resolve

pytestmark = pytest.mark.lab

ROOT = Path(__file__).parents[2]
ALERTS = ROOT / "alerts"
DASHBOARDS = sorted(FOLDER.glob("*.json"))
SCRAPE = 1.0
PORT = 19091
# h1 has too much; vm2, its busiest but one, fits on h2.
DOMAINS = (("vm1", "h1", 15), ("vm2", "h1", 25), ("vm3", "h1", 5), ("vm4", "h2", 15))
BUSY = ("vm1", 35)
THRESHOLD = 0.6

# Panels (by title; of a repeated panel by its legends) that a calm run leaves empty, and why
EMPTY: dict[tuple[str, str], str] = {
    ("Back-off", "{{host}}"): "no attempt failed, so no host is in back-off",
    ("What keeps the balancer from acting", "blackout: {{window}}"): "no window is configured",
    ("Memory", "in huge pages on {{host}}"): "no domain of the lab has huge pages",
    **{
        ("$host", f"as {role} {which}"): "a host that was only one end has no prediction as the other"
        for role in ("source", "destination")
        for which in ("predicted", "lower", "upper")
    },
}
# Metrics that such a run does not have, and why
ABSENT = {
    "virtpoise_penalty_seconds": "no attempt failed, so no host waits",
    "virtpoise_host_unknown": "no host is unknown",
    "virtpoise_host_state": "each host is active",
    "virtpoise_host_draining": "no drain was ordered",
    "virtpoise_blackout": "no window is configured",
    **{f"virtpoise_host_{name}_threshold_ratio": "no host has its own" for name in ("cpu", "memory", "network")},
    "virtpoise_host_libvirt_answers": "libvirt answers on each host",
    "virtpoise_domain_hugepages_bytes": "no domain of the lab has huge pages",
    "virtpoise_domain_network_unseen": "the kernel carries the traffic of all network devices in the lab",
    **{
        f"virtpoise_domain_memory_{name}": "the lab's guests have no balloon driver that could tell"
        for name in (
            *("available_bytes", "disk_caches_bytes", "unused_bytes", "usable_bytes"),
            *("major_faults_total", "minor_faults_total", "swap_in_bytes_total", "swap_out_bytes_total"),
        )
    },
}
# Metrics that such a run may have, and why
SOMETIMES = {
    "virtpoise_domain_facts_age_seconds": "libvirt may not give a domain's XML while it starts or migrates",
    "virtpoise_host_trend_ratio": "a load that jumps has a trend that is believed only for some samples",
}
# What the lab's domains do not have by themselves. A disk that is only read may stay behind as a file of the same name.
DISK = "/var/lib/libvirt/disk"
DISK_XML = f"""
<disk type="file">
  <driver name="qemu" type="raw"/><source file="{DISK}"/><target dev="vda" bus="virtio"/><readonly/>
</disk>
"""
PLACEMENT = "<placement xmlns='urn:virtpoise:1'><apart>db</apart></placement>"


@dataclass(frozen=True)
class Run:
    source: Source
    domain: str
    ends: tuple[str, str]


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """One overload, one migration, and the verdict on its predictions."""
    missing = requirements.missing()
    if missing:
        pytest.skip(missing)
    with Lab.up(
        hosts=2, domains=[DomainSpec(name, host, Load(cpu=load, kind="work")) for name, host, load in DOMAINS]
    ) as lab:
        furnish(lab)
        stack = Stack.start(lab, scrape_seconds=SCRAPE, port=PORT, balancer=True)
        began = time.time()
        balancer = Balancer(lab)
        policy = {"cpu": {"threshold": THRESHOLD, "consecutive": 3}}
        balancer.configure(
            stack.url,
            policy=policy,
            interval_seconds=2,
            measurement={"settle_seconds": 4, "window_seconds": 10},
            migration={"bandwidth_mib_per_second": 8},  # so that it lasts for some scrapes
        )
        balancer.start()
        # A migration of the balancer's first half minute is not marked: Prometheus cannot tell it from an old one.
        balancer.wait_for("half a minute of scrapes", lambda _: scraped(stack) >= 30 / SCRAPE + 2, 90)
        requests.post(f"http://{balancer.address}/api/v1/pause", timeout=5)  # without a token: an order that is refused
        lab.load(*BUSY)
        balancer.wait_for("a verdict on each prediction", lambda _: judged(balancer.history()), 120)
        record = balancer.history()[0]
        settled = time.time()
        balancer.wait_for("the next scrapes", lambda _: time.time() > settled + 5 * SCRAPE)
        source = Source(Prometheus(stack.url), SCRAPE, Span(began - 60, time.time(), SCRAPE))
        yield Run(source, record["domain"], (record["source"], record["destination"]))


def furnish(lab: Lab) -> None:
    """A disk for every domain, and a placement for one."""
    for host in lab.hosts:
        host.run(["truncate", "--size=64M", DISK])
    for name, where, _ in DOMAINS:
        lab.host(where).connection().lookupByName(name).attachDevice(DISK_XML)
    one = lab.host("h2").connection().lookupByName("vm4")
    one.setMetadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, PLACEMENT, "virtpoise", "urn:virtpoise:1")


def scraped(stack: Stack) -> float:
    found = stack.query('sum(count_over_time((up{job="virtpoise-balancer"} == 1)[5m:1s]))')
    return float(found[0]["value"][1]) if found else 0.0


def judged(history: list[dict[str, Any]]) -> bool:
    return bool(history) and all(
        record["result"] and all(p["verdict"] for p in record["predictions"]) for record in history
    )


def drawn(path: Path, run: Run) -> Any:
    dashboard = read(path)
    names = {variable["name"] for variable in dashboard["templating"]["list"]}
    chosen = {"source": run.ends[0], "destination": run.ends[1], "domain": run.domain}
    values = resolve(dashboard, run.source, {name: value for name, value in chosen.items() if name in names})
    return dashboard, values


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_every_panel_has_data(path: Path, run: Run) -> None:
    dashboard, values = drawn(path, run)
    for panel in draw_list(dashboard, values, run.source):
        for target, answer in zip(panel.source.get("targets", ()), panel.answers, strict=True):
            if (panel.source["title"], target["legendFormat"]) in EMPTY:
                continue
            assert answer.series, f"{panel.title}: nothing for {answer.expr}"
            for series in answer.series:
                assert legend_labels(answer.legend) <= set(series.labels), f"{panel.title}: {series.labels}"


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_every_variable_has_values(path: Path, run: Run) -> None:
    dashboard, values = drawn(path, run)
    for variable in dashboard["templating"]["list"][1:]:
        options = options_of(variable, run.source, values)
        if variable["name"] == "group":  # the lab is one group, which has no name: then "All" stands for it
            assert (options, variable["allValue"]) == ([], ".*")
        else:
            assert options, variable["name"]


def test_the_migration_is_marked(run: Run) -> None:
    dashboard, values = drawn(FOLDER / "virtpoise-fleet.json", run)
    texts = {mark.text for mark in marks(dashboard, values, run.source)}
    assert {"Running migration", f"{run.ends[0]} → {run.ends[1]}: done"} <= texts


def rules() -> list[dict[str, Any]]:
    files = sorted(ALERTS.glob("*.rules.yml"))
    return [rule for file in files for group in yaml.safe_load(file.read_text())["groups"] for rule in group["rules"]]


def test_every_metric_that_is_named_anywhere_is_there(run: Run) -> None:
    texts = [rule["expr"] for rule in rules()] + list(QUERIES.values())
    for path in DASHBOARDS:
        dashboard = read(path)
        texts += [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
        texts += [annotation["expr"] for annotation in dashboard["annotations"]["list"] if "expr" in annotation]
        texts += [variable["definition"] for variable in dashboard["templating"]["list"] if "definition" in variable]
    for page in ("docs/metrics.md", "docs/balancer-metrics.md"):  # other pages name none that is not there
        texts += re.findall(r"^\| `(\w+)`", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
    named = {name for text in texts for name in re.findall(r"(?<![\w:])virtpoise_\w+(?![\w:])", text)}
    there = set(run.source.prometheus.label_values('{__name__=~"virtpoise_.+"}', "__name__", run.source.span))
    there |= {name.removesuffix("_count") for name in there}  # histograms and summaries
    there |= {name.removesuffix("_count") for name in there}  # summaries
    assert sorted(named - there - set(ABSENT) - set(SOMETIMES)) == []
    assert sorted(set(ABSENT) & there) == []


def test_recorded_series_are_there(run: Run) -> None:
    for rule in rules():
        if "record" in rule:
            found = run.source.prometheus.instant(
                f'count(last_over_time({{__name__="{rule["record"]}"}}[5m]))', run.source.span.end
            )
            assert found, rule["record"]


def test_a_run_without_trouble_raises_no_alert(run: Run) -> None:
    firing = run.source.prometheus.range('ALERTS{alertstate="firing", alertname=~"Virtpoise.*"}', run.source.span)
    assert [series.labels["alertname"] for series in firing] == []
