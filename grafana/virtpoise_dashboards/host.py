"""The dashboard of one host and its domains."""

from __future__ import annotations

from virtpoise_dashboards import promql
from virtpoise_dashboards.fleet import STATES, THRESHOLD_LINE, TO_DOMAIN
from virtpoise_dashboards.model import (
    GREEN,
    LOAD,
    NEARLY_FULL,
    Dashboard,
    Query,
    Row,
    Stat,
    Style,
    Table,
    TimeSeries,
)
from virtpoise_dashboards.promql import BALANCER, CPU_LOAD, HOST, MEMORY_LOAD

OF_HOST = f'{BALANCER}, host=~"$host"'
THRESHOLD = f"max(virtpoise_host_cpu_threshold_ratio{{{OF_HOST}}}) or max(virtpoise_cpu_threshold_ratio{{{BALANCER}}})"


def _rate(metric: str, by: str) -> str:
    return f"sum by ({by}) (rate(virtpoise_{metric}{{{HOST}}}[$__rate_interval]))"


NOW = Row(
    "$host now",
    (
        Stat(
            title="State",
            description="As the balancer sees it. Only active hosts take part in balancing.",
            queries=(Query(f"max({promql.host_state(OF_HOST)})", "state", instant=True),),
            unit="none",
            values=STATES,
        ),
        Stat(
            title="CPU load",
            description="Share of CPU time in use.",
            queries=(Query(CPU_LOAD, "{{host}}", instant=True),),
            unit="percentunit",
            decimals=0,
            steps=LOAD,
        ),
        Stat(
            title="Memory in use",
            description="Share of memory in use. Memory that the kernel can reclaim counts as free.",
            queries=(Query(MEMORY_LOAD, "{{host}}", instant=True),),
            unit="percentunit",
            decimals=0,
            steps=NEARLY_FULL,
        ),
        Stat(
            title="CPUs",
            description="CPUs online.",
            queries=(Query(f"sum(virtpoise_host_cpus{{{HOST}}})", "CPUs", instant=True),),
            unit="none",
        ),
        Stat(
            title="vCPUs per CPU",
            description="vCPUs of the running domains for each CPU of the host.",
            queries=(
                Query(
                    f"sum(virtpoise_domain_vcpus{{{HOST}}} and on (instance, uuid) virtpoise_domain_running{{{HOST}}} == 1)"
                    f" / sum(virtpoise_host_cpus{{{HOST}}})",
                    "vCPUs per CPU",
                    instant=True,
                ),
            ),
            unit="none",
            decimals=1,
        ),
        Stat(
            title="Domains running",
            description="Domains that run here.",
            queries=(Query(f"count(virtpoise_domain_running{{{HOST}}} == 1)", "domains", instant=True),),
            unit="none",
            steps=GREEN,
        ),
    ),
)

CPU = Row(
    "CPU",
    (
        TimeSeries(
            title="CPU load over time",
            description="Share of CPU time in use, as measured here and as the balancer saw it, and the host's "
            "threshold.",
            queries=(
                Query(CPU_LOAD, "load"),
                Query(f"max(virtpoise_host_cpu_load_ratio{{{OF_HOST}}})", "as the balancer saw it"),
                Query(THRESHOLD, "threshold"),
            ),
            unit="percentunit",
            minimum=0,
            maximum=1,
            styles=(Style("^load$", "blue"), Style("^as the balancer saw it$", "purple", dashed=True), THRESHOLD_LINE),
        ),
        TimeSeries(
            title="CPU by mode",
            description="CPUs busy, by what they do. Guests run in user and nice time.",
            queries=(
                Query(
                    f'sum by (mode) (rate(virtpoise_host_cpu_seconds_total{{{HOST}, mode!="idle"}}[$__rate_interval]))',
                    "{{mode}}",
                ),
            ),
            unit="suffix: CPUs",
            decimals=2,
            minimum=0,
            stacked=True,
        ),
        TimeSeries(
            title="CPU of each domain",
            description="CPUs that each domain keeps busy. The rest of the host's load is the host's own.",
            queries=(Query(_rate("domain_cpu_seconds_total", "domain"), "{{domain}}"),),
            unit="suffix: CPUs",
            decimals=2,
            minimum=0,
            stacked=True,
            legend_table=True,
            link=TO_DOMAIN,
        ),
        TimeSeries(
            title="Steal: waiting for a CPU",
            description="CPUs for which each domain waited; its guest sees this as steal. It grows on a saturated "
            "host.",
            queries=(Query(_rate("domain_cpu_delay_seconds_total", "domain"), "{{domain}}"),),
            unit="suffix: CPUs",
            decimals=2,
            minimum=0,
            stacked=True,
            legend_table=True,
            link=TO_DOMAIN,
        ),
        TimeSeries(
            title="Pressure",
            description="Share of the time in which some tasks waited for CPU, memory or disk (pressure stall "
            "information).",
            queries=(
                Query(
                    f'sum by (resource) (rate(virtpoise_host_pressure_seconds_total{{{HOST}, kind="some"}}[$__rate_interval]))',
                    "{{resource}}",
                ),
            ),
            unit="percentunit",
            minimum=0,
            width=24,
            height=7,
        ),
    ),
)

MEMORY = Row(
    "Memory",
    (
        TimeSeries(
            title="Memory of the host",
            description="Memory of the host: total, in use, in static huge pages (free ones too), and assigned to its "
            "domains; and the swap space in use.",
            queries=(
                Query(f"sum(virtpoise_host_memory_total_bytes{{{HOST}}})", "total"),
                Query(
                    f"sum(virtpoise_host_memory_total_bytes{{{HOST}}}) - sum(virtpoise_host_memory_available_bytes{{{HOST}}})"
                    f" - (sum(virtpoise_host_memory_hugepages_bytes{{{HOST}}}) or vector(0))",
                    "in use",
                ),
                Query(f"sum(virtpoise_host_memory_hugepages_bytes{{{HOST}}})", "in huge pages"),
                Query(
                    f"sum(virtpoise_host_swap_total_bytes{{{HOST}}}) - sum(virtpoise_host_swap_free_bytes{{{HOST}}})",
                    "swap in use",
                ),
                Query(f"sum(virtpoise_domain_memory_bytes{{{HOST}}})", "assigned to domains"),
            ),
            unit="bytes",
            minimum=0,
            styles=(Style("^total$", "red", dashed=True, width=1),),
        ),
        TimeSeries(
            title="Memory of each domain",
            description="Memory of the host that each domain's process holds.",
            queries=(Query(f"sum by (domain) (virtpoise_domain_memory_resident_bytes{{{HOST}}})", "{{domain}}"),),
            unit="bytes",
            minimum=0,
            stacked=True,
            legend_table=True,
            link=TO_DOMAIN,
        ),
    ),
)

NETWORK = Row(
    "Network",
    (
        TimeSeries(
            title="Traffic of the uplinks",
            description="Bytes per second of each uplink in both directions.",
            queries=(
                Query(_rate("host_network_receive_bytes_total", "device"), "{{device}} in"),
                Query(_rate("host_network_transmit_bytes_total", "device"), "{{device}} out"),
            ),
            unit="Bps",
            minimum=0,
        ),
        TimeSeries(
            title="Traffic of each domain",
            description="Bytes per second that each domain sends and receives, whatever uplink it uses.",
            queries=(
                Query(_rate("domain_network_receive_bytes_total", "domain"), "{{domain}} in"),
                Query(_rate("domain_network_transmit_bytes_total", "domain"), "{{domain}} out"),
            ),
            unit="Bps",
            minimum=0,
            legend_table=True,
            link=TO_DOMAIN,
        ),
    ),
)

ABOUT = Row(
    "About",
    (
        Table(
            title="The host",
            description="Host name, CPU, architecture and hypervisor.",
            queries=(Query(f"virtpoise_host_info{{{HOST}}}", instant=True, format="table"),),
            unit="none",
            columns={
                "hostname": "Name",
                "cpu_model": "CPU",
                "arch": "Architecture",
                "hypervisor": "Hypervisor",
                "libvirt_version": "libvirt",
                "host_uuid": "UUID",
            },
            column_units={},
            width=24,
            height=5,
        ),
    ),
)

HOST_DASHBOARD = Dashboard(
    uid="virtpoise-host",
    title="Virtpoise / Host",
    description="One host: its CPU, memory and uplinks, and its domains' shares.",
    variables=(promql.JOB_VARIABLE, promql.BALANCER_VARIABLE, promql.GROUP_VARIABLE, promql.host_variable(multi=False)),
    annotations=promql.ANNOTATIONS,
    rows=(NOW, CPU, MEMORY, NETWORK, ABOUT),
)
