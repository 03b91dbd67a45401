"""The rules, run by promtool; and what promtool does not check: each alert is tested both ways and has a runbook."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from virtpoise_exporter import metrics
from virtpoise_exporter.exposition import Metric

ALERTS = Path(__file__).parents[2] / "alerts"
RULE_FILES = (ALERTS / "recording.rules.yml", ALERTS / "alerts.rules.yml")
TEST_FILES = sorted((ALERTS / "tests").glob("*.yml"))
CACHE = Path(os.environ.get("VIRTPOISE_CACHE", "/var/cache/virtpoise-lab"))
PROMTOOL = CACHE / "prometheus/usr/bin/promtool"
# Of Prometheus 3.x.
NEWER = CACHE / "promtool-sid/usr/bin/promtool"
# What an administrator does or sees every week, and what no alert may take for trouble.
SCENARIOS = ("join", "restart", "drain")
# Where an alert has nothing to do with it, and why; every other one has a silent case of each.
DOES_NOT_APPLY = {
    ("VirtpoiseBalancerDown", "join"): "it asks for no host",
    ("VirtpoiseBalancerDown", "drain"): "it asks for no host",
    ("VirtpoiseNoLeader", "join"): "it asks for no host",
    ("VirtpoiseNoLeader", "drain"): "it asks for no host",
    ("VirtpoiseDomainVanished", "join"): "a host that joins takes part in no migration that was begun before",
    ("VirtpoiseDomainNotStarted", "join"): "a host that joins takes part in no migration that was begun before",
    ("VirtpoiseDomainBetweenHosts", "join"): "a host that joins takes part in no migration that was begun before",
    ("VirtpoiseCyclesFailing", "join"): "figures that a host does not have yet make it unknown, and fail no cycle",
    ("VirtpoiseCyclesStalled", "join"): "figures that a host does not have yet hold up no cycle",
    ("VirtpoiseSnapshotStale", "join"): "it asks for the newest figures of any host",
}
HEADINGS = ["Meaning", "Impact", "Diagnosis", "Mitigation"]
# Gone, renamed or experimental between Prometheus 2.42 and 3.x; and bounds of histograms by their text, which 3.x
# writes as 1.0
NOT_PORTABLE = re.compile(
    r"\b(holt_winters|double_exponential_smoothing|limitk|limit_ratio|info|sort_by_label|sort_by_label_desc|mad_over_time)\s*\("
    r"|\ble\s*(=|!)"
)


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def rules(kind: str) -> list[dict[str, Any]]:
    found = [rule for path in RULE_FILES for group in read(path)["groups"] for rule in group["rules"]]
    return [rule for rule in found if kind in rule]


ALERT_RULES = {rule["alert"]: rule for rule in rules("alert")}


def promtool(*arguments: str | Path, of: Path = PROMTOOL) -> None:
    ran = subprocess.run([of, *arguments], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


SERVERS = pytest.mark.parametrize(
    "of",
    [
        pytest.param(PROMTOOL, id="2.42"),
        pytest.param(NEWER, id="3", marks=pytest.mark.skipif(not NEWER.exists(), reason="sid has no promtool now")),
    ],
)


@SERVERS
def test_promtool_accepts_the_rules(of: Path) -> None:
    promtool("check", "rules", "--lint=all", "--lint-fatal", *RULE_FILES, of=of)


# A metric of ours and its matchers, but for recorded series, which have a colon in their names.
_SELECTOR = re.compile(r"(?<![:\w])(virtpoise_\w+)(?![:\w])(?:\{([^}]*)\})?")
_OF_THE_EXPORTER = {one.name for one in vars(metrics).values() if isinstance(one, Metric)}


@pytest.mark.parametrize(
    "rule", [*rules("record"), *rules("alert")], ids=lambda rule: rule.get("record", rule.get("alert"))
)
def test_each_metric_is_taken_from_the_job_whose_it_is(rule: dict[str, Any]) -> None:
    # Else any scraped target could say that a host drains, and so silence the alerts about it.
    for name, matchers in _SELECTOR.findall(rule["expr"]):
        job = "virtpoise-exporter" if name in _OF_THE_EXPORTER else "virtpoise-balancer"
        assert f'job="{job}"' in matchers.split(","), f"{name}{{{matchers}}}"


def needed(path: Path) -> dict[str, Any]:
    """The rules that a test file names, and those that record what they read, in their groups.

    promtool evaluates every rule that it gets at every step of every test. With all of them, most of its time would go
    into alerts that the file does not ask about. No alert reads another one.
    """
    named = path.read_text(encoding="utf-8")
    groups = [group for file in RULE_FILES for group in read(file)["groups"]]
    for group in reversed(groups):
        kept = []
        for rule in reversed(group["rules"]):
            if rule.get("record", rule.get("alert")) in named:
                named += rule["expr"]
                kept.append(rule)
        group["rules"] = kept[::-1]
    return {"groups": [group for group in groups if group["rules"]]}


@SERVERS
@pytest.mark.parametrize("path", TEST_FILES, ids=lambda path: path.stem)
def test_promtool_unit_tests(path: Path, of: Path, tmp_path: Path) -> None:
    tests = read(path)
    assert {(path.parent / file).resolve() for file in tests["rule_files"]} <= set(RULE_FILES)
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(needed(path), sort_keys=False))
    tests["rule_files"] = ["rules.yml"]
    (tmp_path / "tests.yml").write_text(yaml.safe_dump(tests, sort_keys=False))
    promtool("test", "rules", tmp_path / "tests.yml", of=of)


@pytest.mark.parametrize("alert", ALERT_RULES)
def test_each_alert_is_tested_for_firing_and_for_silence(alert: str) -> None:
    groups = read(ALERTS / "tests" / f"{alert}.yml")["tests"]
    fires = [group for group in groups if group["name"].startswith("fires: ")]
    silent = [group for group in groups if group["name"].startswith("silent: ")]
    assert fires
    assert silent
    assert len(fires) + len(silent) == len(groups)
    for group in fires:
        assert any(case["alertname"] == alert and case.get("exp_alerts") for case in group["alert_rule_test"])
    for group in silent:
        assert group["alert_rule_test"]
        assert all(case["alertname"] == alert and not case.get("exp_alerts") for case in group["alert_rule_test"])


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("alert", ALERT_RULES)
def test_each_alert_is_silent_in_a_join_a_restart_and_a_drain(alert: str, scenario: str) -> None:
    names = [group["name"] for group in read(ALERTS / "tests" / f"{alert}.yml")["tests"]]
    tested = any(name.startswith(f"silent: {scenario}: ") for name in names)
    assert tested is ((alert, scenario) not in DOES_NOT_APPLY)


def test_no_exception_is_left_of_an_alert_that_is_gone() -> None:
    assert {alert for alert, _ in DOES_NOT_APPLY} <= set(ALERT_RULES)


@pytest.mark.parametrize("alert", ALERT_RULES)
def test_each_alert_has_a_runbook_and_links_to_it(alert: str) -> None:
    rule = ALERT_RULES[alert]
    assert rule["annotations"]["runbook_url"] == f"http://127.0.0.1:9808/runbooks/{alert}.md"
    lines = (ALERTS / "runbooks" / f"{alert}.md").read_text(encoding="utf-8").splitlines()
    assert lines[0] == f"# {alert}"
    headings = [line.removeprefix("## ") for line in lines if line.startswith("## ")]
    assert headings == HEADINGS
    for heading, following in zip(headings, [*headings[1:], None], strict=True):
        start = lines.index(f"## {heading}") + 1
        end = lines.index(f"## {following}") if following else len(lines)
        assert any(line.strip() for line in lines[start:end]), f"{heading} is empty"


def test_no_runbook_or_test_is_left_of_an_alert_that_is_gone() -> None:
    assert {path.stem for path in (ALERTS / "runbooks").glob("*.md")} == set(ALERT_RULES)
    assert {path.stem for path in TEST_FILES} == {*ALERT_RULES, "recording"}


def test_links_between_runbooks_lead_somewhere() -> None:
    for path in (ALERTS / "runbooks").glob("*.md"):
        for target in re.findall(r"\]\(([^)]+)\)", path.read_text(encoding="utf-8")):
            assert (path.parent / target).is_file(), f"{path.name} links to {target}"


@pytest.mark.parametrize("alert", ALERT_RULES)
def test_each_alert_says_how_bad_and_what(alert: str) -> None:
    rule = ALERT_RULES[alert]
    assert re.fullmatch(r"Virtpoise[A-Z][A-Za-z]+", alert)
    assert rule["labels"] == {"severity": rule["labels"]["severity"]}
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}


@pytest.mark.parametrize("rule", rules("record"), ids=lambda rule: rule["record"])
def test_recorded_series_are_named_and_aggregated_as_the_field_does(rule: dict[str, Any]) -> None:
    assert re.fullmatch(r"[a-z_]+:virtpoise_[a-z_]+:[a-z0-9_]+", rule["record"])
    assert not re.search(r"\bby\s*\(", rule["expr"]), "say what goes with without(), so that labels of the target stay"


@pytest.mark.parametrize(
    "rule", [*rules("record"), *rules("alert")], ids=lambda rule: rule.get("record") or rule["alert"]
)
def test_rules_are_read_alike_by_prometheus_2_and_3(rule: dict[str, Any]) -> None:
    assert not NOT_PORTABLE.search(rule["expr"])
