"""The dashboard of one domain, on whichever host it runs."""

from __future__ import annotations

from virtpoise_dashboards import promql
from virtpoise_dashboards.fleet import TO_HOST
from virtpoise_dashboards.model import (
    GREEN,
    Dashboard,
    Query,
    Row,
    Stat,
    StateTimeline,
    Style,
    Table,
    TimeSeries,
    Value,
    Variable,
)
from virtpoise_dashboards.promql import DOMAIN, by_host

VCPUS = Style("^vCPUs$", "red", dashed=True, width=1)


def _rate(metric: str, by: str = "instance") -> str:
    return by_host(f"sum by ({by}) (rate(virtpoise_domain_{metric}{{{DOMAIN}}}[$__rate_interval]))")


PLACE = Row(
    "$domain",
    (
        Stat(
            title="Runs on",
            description="The host that runs the domain.",
            queries=(
                Query(
                    by_host(f"max by (instance) (virtpoise_domain_running{{{DOMAIN}}}) == 1"), "{{host}}", instant=True
                ),
            ),
            unit="none",
            names=True,
            steps=GREEN,
            width=6,
            height=5,
        ),
        StateTimeline(
            title="Where it ran",
            description="Filled while the domain runs on the host. Where one line ends and another begins, it was "
            "migrated.",
            queries=(Query(by_host(f"max by (instance) (virtpoise_domain_running{{{DOMAIN}}} == 1)"), "{{host}}"),),
            unit="none",
            values=(Value(1, "runs here", "green"),),
            width=18,
            height=5,
            link=TO_HOST,
        ),
    ),
)

CPU = Row(
    "CPU and memory",
    (
        TimeSeries(
            title="CPU",
            description="CPUs that the domain keeps busy, QEMU's own work included, on the host that runs it; and its "
            "vCPUs.",
            queries=(
                Query(_rate("cpu_seconds_total"), "on {{host}}"),
                Query(f"max(virtpoise_domain_vcpus{{{DOMAIN}}})", "vCPUs"),
            ),
            unit="suffix: CPUs",
            decimals=2,
            minimum=0,
            styles=(VCPUS,),
        ),
        TimeSeries(
            title="Steal: waiting for a CPU",
            description="CPUs for which the domain waited; its guest sees this as steal. It ends when the domain "
            "leaves a saturated host.",
            queries=(Query(_rate("cpu_delay_seconds_total"), "on {{host}}"),),
            unit="suffix: CPUs",
            decimals=2,
            minimum=0,
        ),
        TimeSeries(
            title="Memory",
            description="Memory that the domain can be given at most, what is assigned to it now, the resident memory of "
            "its process, and what it has in static huge pages, which are not in that.",
            queries=(
                Query(
                    by_host(f"max by (instance) (virtpoise_domain_memory_bytes{{{DOMAIN}}})"), "assigned on {{host}}"
                ),
                Query(
                    by_host(f"max by (instance) (virtpoise_domain_memory_resident_bytes{{{DOMAIN}}})"),
                    "held on {{host}}",
                ),
                Query(
                    by_host(f"max by (instance) (virtpoise_domain_memory_maximum_bytes{{{DOMAIN}}})"),
                    "at most on {{host}}",
                ),
                Query(
                    by_host(f"sum by (instance) (virtpoise_domain_hugepages_bytes{{{DOMAIN}}})"),
                    "in huge pages on {{host}}",
                ),
            ),
            unit="bytes",
            minimum=0,
        ),
        TimeSeries(
            title="Disks",
            description="Bytes per second read from and written to each disk.",
            queries=(
                Query(_rate("block_read_bytes_total", "instance, device"), "{{device}} read, on {{host}}"),
                Query(_rate("block_written_bytes_total", "instance, device"), "{{device}} written, on {{host}}"),
            ),
            unit="Bps",
            minimum=0,
        ),
    ),
)

NETWORK = Row(
    "Network",
    (
        TimeSeries(
            title="Traffic",
            description="Bytes per second of each network device of the domain.",
            queries=(
                Query(_rate("network_receive_bytes_total", "instance, device"), "{{device}} in, on {{host}}"),
                Query(_rate("network_transmit_bytes_total", "instance, device"), "{{device}} out, on {{host}}"),
            ),
            unit="Bps",
            minimum=0,
        ),
        Table(
            title="Network devices",
            description="The host's interface behind each network device of the domain; empty if the traffic stays on "
            "the host.",
            queries=(
                Query(
                    by_host(
                        f"max by (instance, device, uplink) (virtpoise_domain_network_receive_bytes_total{{{DOMAIN}}})"
                    ),
                    instant=True,
                    format="table",
                ),
            ),
            unit="none",
            columns={"host": "Host", "device": "Device", "uplink": "Uplink", "Value": "Received"},
            column_units={"Received": "bytes"},
        ),
    ),
)

DOMAIN_DASHBOARD = Dashboard(
    uid="virtpoise-domain",
    title="Virtpoise / Domain",
    description="One domain: where it ran, what it used, and its steal time.",
    variables=(
        promql.JOB_VARIABLE,
        promql.BALANCER_VARIABLE,
        promql.GROUP_VARIABLE,
        Variable(
            name="domain",
            label="Domain",
            query='label_values(virtpoise_domain_info{job=~"$job"}, domain)',
            multi=False,
        ),
    ),
    annotations=promql.ANNOTATIONS,
    rows=(PLACE, CPU, NETWORK),
)
