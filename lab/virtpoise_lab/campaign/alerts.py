"""Which critical alerts a balancer's own figures raise, by the rules of ``alerts/alerts.rules.yml``."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import yaml
from prometheus_client import CollectorRegistry

from virtpoise_balancer.model import UnsettledKind

RULES = Path(__file__).parents[3] / "alerts/alerts.rules.yml"

# The alert that a domain of this kind calls for. One whose hosts do not answer has the alerts about these hosts.
CALLS_FOR = {
    UnsettledKind.TWICE: "VirtpoiseDomainRunningTwice",
    UnsettledKind.NOWHERE: "VirtpoiseDomainVanished",
    UnsettledKind.WAITING: "VirtpoiseDomainNotStarted",
    UnsettledKind.BETWEEN: "VirtpoiseDomainBetweenHosts",
}
# A branch of a rule that goes by one figure of the balancer alone, whatever other figures say.
_ALONE = re.compile(r"^ *max by \(job, group\) \((virtpoise_\w+)\{([^}]*)\}\) > 0$", re.MULTILINE)


@cache
def _alone() -> tuple[tuple[str, str, dict[str, str]], ...]:
    """Each such branch of the critical rules: the alert, the figure and the labels that it asks for."""
    rules = [rule for group in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"] for rule in group["rules"]]
    return tuple(
        (
            rule["alert"],
            figure,
            {name: value for name, value in re.findall(r'(\w+)="([^"]*)"', labels) if name != "job"},
        )
        for rule in rules
        if rule.get("labels", {}).get("severity") == "critical"
        for figure, labels in _ALONE.findall(rule["expr"])
    )


def firing(registry: CollectorRegistry) -> set[str]:
    """The alerts that fire once these figures have stood for as long as their rules say."""
    samples = [sample for family in registry.collect() for sample in family.samples]
    return {
        alert
        for alert, figure, labels in _alone()
        for sample in samples
        if sample.name == figure and labels.items() <= sample.labels.items() and sample.value > 0
    }
