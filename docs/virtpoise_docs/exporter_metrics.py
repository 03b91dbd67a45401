"""docs/metrics.md, from the exporter's table of metrics."""

from __future__ import annotations

from collections.abc import Iterable

from virtpoise_exporter.exposition import Metric
from virtpoise_exporter.metrics import ALL

_INTRODUCTION = """\
# The exporter's metrics

Generated from the code by `scripts/generate-docs`; a test compares the two.

- Counters and gauges only. Nothing carries a timestamp, and nothing a host label: Prometheus adds `instance`.
- Names carry their unit; ratios go from 0 to 1.
- A domain is known by its `uuid`, which stays the same wherever it migrates. Its name, the label `domain`, is for people.
- A domain's counters begin with its QEMU process: they start near 0 on the host it migrates to. Take `rate()` first and
  sum by `uuid` then. Within one process' life they never go backwards.
- While a domain migrates, both hosts know it. Join with `virtpoise_domain_running == 1` to count it once, where it runs.
  A domain that is shut off is known to its host with `virtpoise_domain_running` 0 and `virtpoise_domain_state{state="shutoff"}`;
  one that is paused there, and neither arriving nor leaving, with `state="paused"` and libvirt's reason, such as `user`.
- What is not fresh is left out, never repeated. `virtpoise_domain_stale_seconds` names what is missing and how old the last
  figures are; `virtpoise_exporter_stale_domains` counts it.
- The metrics below are stable: one that is to be renamed is served under both names for one release. The words in
  `virtpoise_domain_state` and `virtpoise_exporter_source_info` are meant for people and may grow.

Each collector can be switched off with `--no-collector.NAME`, and all of the host's with `--no-collector.host`.
`process_*` are the exporter's own use of the host, as every Prometheus client tells it.
"""

_TITLES = {
    "cpu": "CPU time of the host",
    "memory": "Memory of the host",
    "network": "Uplinks of the host",
    "pressure": "Pressure on the host",
    "numa": "NUMA nodes",
    "speed": "Speed of a CPU",
    "libvirt": "libvirt and its domains",
    "domains": "What the domains use",
    "block": "Disks",
    "balloon": "Memory as the guests see it",
    "": "The exporter itself, and how fresh its figures are",
}


def metrics() -> str:
    """docs/metrics.md."""
    parts = [_INTRODUCTION]
    for collector, title in _TITLES.items():
        of = f" (collector `{collector}`)" if collector else ""
        parts.append(f"\n## {title}{of}\n\n| metric | kind | labels | meaning |\n| --- | --- | --- | --- |\n")
        parts.extend(_rows(metric for metric in ALL if metric.collector == collector))
    return "".join(parts)


def _rows(some: Iterable[Metric]) -> Iterable[str]:
    for metric in some:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        yield f"| `{metric.name}` | {metric.kind} | {labels} | {metric.help} |\n"
