"""Writes docs/metrics.md from the table of metrics: ``python -m virtpoise_exporter.docs > docs/metrics.md``."""

import sys
from collections.abc import Iterable

from virtpoise_exporter import metrics
from virtpoise_exporter.collectors import TOPICS
from virtpoise_exporter.exposition import Metric

_INTRODUCTION = """\
# The exporter's metrics

Generated from the code by `python -m virtpoise_exporter.docs`; a test compares the two.

- Counters and gauges only. Nothing carries a timestamp, and nothing a host label: Prometheus adds `instance`.
- Names carry their unit; ratios go from 0 to 1.
- A domain is identified by its `uuid`, which stays the same wherever it migrates. Its name, the label `domain`, is for
  people.
- A domain's counters begin with its QEMU process: they start near 0 on the host it migrates to. Take `rate()` first and
  sum by `uuid` then. Within one process' life they never go backwards.
- While a domain migrates, both hosts know it. Join with `virtpoise_domain_running == 1` to count it once, where it runs.
  A domain that is shut off has `virtpoise_domain_running` 0 and `virtpoise_domain_state{state="shutoff"}` on its host.
  A domain that is paused there, and neither arriving nor leaving, has `state="paused"` and libvirt's reason, such as
  `user`.
- What is not fresh is left out, never repeated. `virtpoise_domain_stale_seconds` names what is missing and how old the last
  figures are; `virtpoise_exporter_stale_domains` counts it.
- The metrics below are stable: one that is to be renamed is served under both names for one release. The words in
  `virtpoise_domain_state` and `virtpoise_exporter_source_info` are meant for people and may grow.

Each collector can be switched off with `--no-collector.NAME`, and all of the host's with `--no-collector.host`.
`process_*` are the exporter's own use of the host, as in every Prometheus client.
"""

_OWN_TITLE = "The exporter itself, and how fresh its figures are"


def document() -> str:
    """The page."""
    sections = [(topic.name, f"{topic.title} (collector `{topic.name}`)") for topic in TOPICS]
    parts = [_INTRODUCTION]
    for collector, title in [*sections, ("", _OWN_TITLE)]:
        parts.append(f"\n## {title}\n\n| metric | kind | labels | meaning |\n| --- | --- | --- | --- |\n")
        parts.extend(_rows(metric for metric in metrics.ALL if metric.collector == collector))
    return "".join(parts)


def _rows(some: Iterable[Metric]) -> Iterable[str]:
    for metric in some:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        yield f"| `{metric.name}` | {metric.kind} | {labels} | {metric.help} |\n"


if __name__ == "__main__":
    sys.stdout.write(document())
