"""docs/metrics.md, from the exporter's table of metrics."""

from __future__ import annotations

from collections.abc import Iterable

from virtpoise_exporter.collectors import TOPICS
from virtpoise_exporter.exposition import Metric
from virtpoise_exporter.metrics import ALL

_INTRODUCTION = """\
# The exporter's metrics

Generated from the code by `scripts/generate-docs`; a test compares the two.

- Counters and gauges only. There are no timestamps and no host label: Prometheus adds `instance`.
- Names carry their unit; ratios go from 0 to 1.
- A domain is identified by its `uuid`, which a migration does not change. Its name, the label `domain`, is for people.
- A domain's counters begin with its QEMU process: they start near 0 on the host it migrates to. So use `rate()` first
  and sum by `uuid` afterwards. Within the life of a process they never decrease.
- During a migration both hosts list the domain. Join with `virtpoise_domain_running == 1` to count it once, where it
  runs. A shut-off domain is listed with `virtpoise_domain_running` 0 and `virtpoise_domain_state{state="shutoff"}`; one
  that is paused there, and neither arriving nor leaving, with `state="paused"` and libvirt's reason, such as `user`.
- Stale values are left out, never repeated. `virtpoise_domain_stale_seconds` names what is missing and the age of the
  last values; `virtpoise_exporter_stale_domains` counts it.
- The metrics below are stable: a renamed metric is exported under both names for one release. The label values of
  `virtpoise_domain_state` and `virtpoise_exporter_source_info` are for people, and more may be added.

Each collector can be disabled with `--no-collector.NAME`, and all of the host's with `--no-collector.host`.
`process_*` are the exporter's own resource use, as in every Prometheus client.
"""

_OWN_TITLE = "The exporter itself, and the age of its data"


def metrics() -> str:
    """docs/metrics.md."""
    sections = [(topic.name, f"{topic.title} (collector `{topic.name}`)") for topic in TOPICS]
    parts = [_INTRODUCTION]
    for collector, title in [*sections, ("", _OWN_TITLE)]:
        parts.append(f"\n## {title}\n\n| metric | kind | labels | meaning |\n| --- | --- | --- | --- |\n")
        parts.extend(_rows(metric for metric in ALL if metric.collector == collector))
    return "".join(parts)


def _rows(some: Iterable[Metric]) -> Iterable[str]:
    for metric in some:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        yield f"| `{metric.name}` | {metric.kind} | {labels} | {metric.help} |\n"
