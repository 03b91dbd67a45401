"""Writes the pages of docs/ that are made from what they describe. Not part of the distribution."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from virtpoise_docs.balancer_metrics import balancer_metrics
from virtpoise_docs.cli import cli
from virtpoise_docs.configuration import configuration
from virtpoise_docs.exporter_metrics import metrics
from virtpoise_docs.files import files

# Each page by the name of its file without ".md".
PAGES: Mapping[str, Callable[[], str]] = {
    "balancer-metrics": balancer_metrics,
    "cli": cli,
    "configuration": configuration,
    "files": files,
    "metrics": metrics,
}
