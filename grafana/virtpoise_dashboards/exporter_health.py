"""The health of exporters, their collectors, and libvirt."""

from __future__ import annotations

from virtpoise_dashboards import promql
from virtpoise_dashboards.model import (
    BAD_IF_ANY,
    GREEN,
    Dashboard,
    Query,
    Row,
    Stat,
    StateTimeline,
    Table,
    TimeSeries,
    Value,
)
from virtpoise_dashboards.promql import HOST, by_host, counted

UP = (Value(0, "down", "red"), Value(1, "up", "green"))
WORKS = (Value(0, "fails", "red"), Value(1, "works", "green"))

NOW = Row(
    "Now",
    (
        Stat(
            title="Exporters that answer",
            description="Targets that Prometheus scrapes successfully.",
            queries=(Query(f"count(up{{{HOST}}} == 1)", "up", instant=True),),
            unit="none",
            steps=GREEN,
            width=6,
        ),
        Stat(
            title="Exporters that do not answer",
            description="Targets that Prometheus cannot scrape.",
            queries=(Query(counted(f"up{{{HOST}}} == 0", f"up{{{HOST}}}"), "down", instant=True),),
            unit="none",
            steps=BAD_IF_ANY,
            width=6,
        ),
        Stat(
            title="Hosts without libvirt",
            description="Hosts whose exporter answers but does not reach libvirt.",
            queries=(
                Query(
                    counted(f"virtpoise_libvirt_up{{{HOST}}} == 0", f"virtpoise_libvirt_up{{{HOST}}}"),
                    "hosts",
                    instant=True,
                ),
            ),
            unit="none",
            steps=BAD_IF_ANY,
            width=6,
        ),
        Stat(
            title="Collectors that fail",
            description="Collectors, over all hosts, that failed or missed their deadline in the newest scrape.",
            queries=(
                Query(
                    counted(
                        f"virtpoise_exporter_collector_success{{{HOST}}} == 0",
                        f"virtpoise_exporter_collector_success{{{HOST}}}",
                    ),
                    "collectors",
                    instant=True,
                ),
            ),
            unit="none",
            steps=BAD_IF_ANY,
            width=6,
        ),
    ),
)

OVER_TIME = Row(
    "Over time",
    (
        StateTimeline(
            title="Exporter answers",
            description="Whether Prometheus could scrape each host.",
            queries=(Query(by_host(f"min by (instance) (up{{{HOST}}})"), "{{host}}"),),
            unit="none",
            values=UP,
        ),
        StateTimeline(
            title="libvirt answers",
            description="Whether each exporter reached libvirt. In a gap, the exporter itself did not answer.",
            queries=(Query(by_host(f"min by (instance) (virtpoise_libvirt_up{{{HOST}}})"), "{{host}}"),),
            unit="none",
            values=UP,
        ),
        StateTimeline(
            title="Collectors",
            description="Whether each collector answered within the scrape's deadline, on all chosen hosts together.",
            queries=(Query(f"min by (collector) (virtpoise_exporter_collector_success{{{HOST}}})", "{{collector}}"),),
            unit="none",
            values=WORKS,
        ),
        TimeSeries(
            title="Slowest collectors",
            description="How long each collector took, on the host where it took longest.",
            queries=(
                Query(f"max by (collector) (virtpoise_exporter_collector_duration_seconds{{{HOST}}})", "{{collector}}"),
            ),
            unit="s",
            minimum=0,
            legend_table=True,
        ),
        TimeSeries(
            title="Duration of a scrape",
            description="How long Prometheus waited for each exporter.",
            queries=(Query(by_host(f"max by (instance) (scrape_duration_seconds{{{HOST}}})"), "{{host}}"),),
            unit="s",
            minimum=0,
        ),
        TimeSeries(
            title="Samples in a scrape",
            description="Samples from each host, about proportional to the number of its domains.",
            queries=(Query(by_host(f"max by (instance) (scrape_samples_scraped{{{HOST}}})"), "{{host}}"),),
            unit="none",
            minimum=0,
        ),
    ),
)

INVENTORY = Row(
    "Inventory",
    (
        TimeSeries(
            title="Domains that libvirt knows",
            description="Domains by state, over the chosen hosts.",
            queries=(Query(f"sum by (state) (virtpoise_domains{{{HOST}}})", "{{state}}"),),
            unit="none",
            decimals=0,
            minimum=0,
        ),
        Table(
            title="Versions",
            description="Versions of exporter, libvirt and hypervisor of each host.",
            queries=(
                Query(
                    by_host(
                        f"max by (instance, version) (virtpoise_exporter_build_info{{{HOST}}})"
                        " * on (instance) group_left (libvirt_version, hypervisor, arch)"
                        # one of each host: a second would make Prometheus refuse the whole answer
                        f" topk by (instance) (1, virtpoise_host_info{{{HOST}}})"
                    ),
                    instant=True,
                    format="table",
                ),
            ),
            unit="none",
            columns={
                "host": "Host",
                "version": "Exporter",
                "libvirt_version": "libvirt",
                "hypervisor": "Hypervisor",
                "arch": "Architecture",
            },
            column_units={},
        ),
    ),
)

EXPORTER_HEALTH = Dashboard(
    uid="virtpoise-exporter-health",
    title="Virtpoise / Exporter health",
    description="The health of exporters, their collectors, and libvirt.",
    variables=(promql.JOB_VARIABLE, promql.BALANCER_VARIABLE, promql.GROUP_VARIABLE, promql.host_variable(multi=True)),
    annotations=promql.ANNOTATIONS,
    rows=(NOW, OVER_TIME, INVENTORY),
)
