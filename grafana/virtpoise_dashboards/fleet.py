"""The dashboard of all hosts."""

from __future__ import annotations

from virtpoise_dashboards import promql
from virtpoise_dashboards.model import (
    BAD_IF_ANY,
    GREEN,
    LOAD,
    NEARLY_FULL,
    BarGauge,
    Dashboard,
    Link,
    Query,
    Row,
    Stat,
    StateTimeline,
    Step,
    Style,
    TimeSeries,
    Value,
)
from virtpoise_dashboards.promql import (
    BALANCER,
    CPU_LOAD,
    FULLEST_UPLINK,
    HOST,
    MEMORY_LOAD,
    MEMORY_THRESHOLD,
    THRESHOLD,
    UPLINK_THRESHOLD,
    by_host,
    counted,
)

TO_HOST = Link("Open the host", "virtpoise-host", "host", "host")
TO_DOMAIN = Link("Open the domain", "virtpoise-domain", "domain", "domain")
_LOAD = f"virtpoise_host_cpu_load_ratio{{{BALANCER}}}"
_OWN = f"virtpoise_host_cpu_threshold_ratio{{{BALANCER}}}"
THRESHOLD_LINE = Style("^threshold$", "red", dashed=True, width=1)
STATES = tuple(
    Value(i, state, color)
    for i, (state, color) in enumerate(
        zip(promql.HOST_STATES, ("green", "orange", "blue", "purple", "red"), strict=True), 1
    )
)

NOW = Row(
    "Now",
    (
        Stat(
            title="Hosts scraped",
            description="Hosts whose exporter answers Prometheus.",
            queries=(Query(f"count(virtpoise_host_cpus{{{HOST}}})", "hosts", instant=True),),
            unit="none",
            width=3,
        ),
        Stat(
            title="Hosts unknown",
            description="Hosts without fresh samples. Nothing is migrated to or from them.",
            queries=(
                Query(
                    f'sum(max without (instance) (virtpoise_hosts{{{BALANCER}, state="unknown"}}))',
                    "hosts",
                    instant=True,
                ),
            ),
            unit="none",
            steps=BAD_IF_ANY,
            width=3,
        ),
        Stat(
            title="Hosts over threshold",
            description="Hosts whose CPU load is at or above their threshold in the balancer's newest cycle.",
            queries=(
                Query(
                    counted(
                        f"max by (host) ({_LOAD} >= {_OWN} or ({_LOAD} unless {_OWN})"
                        f" >= ignoring (host) group_left () virtpoise_cpu_threshold_ratio{{{BALANCER}}})",
                        f"max by (host) (virtpoise_host_cpu_load_ratio{{{BALANCER}}})",
                    ),
                    "hosts",
                    instant=True,
                ),
            ),
            unit="none",
            steps=BAD_IF_ANY,
            width=3,
        ),
        Stat(
            title="Domains running",
            description="Domains that run on the chosen hosts.",
            queries=(Query(f"count(virtpoise_domain_running{{{HOST}}} == 1)", "domains", instant=True),),
            unit="none",
            width=3,
        ),
        Stat(
            title="Migrations in flight",
            description="Running live migrations.",
            queries=(Query(f"max(virtpoise_migrations_in_flight{{{BALANCER}}})", "migrations", instant=True),),
            unit="none",
            width=3,
        ),
        Stat(
            title="Mode",
            description="automatic: the balancer carries out its plans. recommend: a person applies them.",
            queries=(Query(f"max by (mode) (virtpoise_mode{{{BALANCER}}}) == 1", "{{mode}}", instant=True),),
            unit="none",
            names=True,
            steps=GREEN,
            width=4,
        ),
        Stat(
            title="Alerts firing",
            description="Alerts of virtpoise that fire in this Prometheus, whatever hosts are chosen above.",
            queries=(
                Query(
                    'count(ALERTS{alertname=~"Virtpoise.+", alertstate="firing"}) or vector(0)', "alerts", instant=True
                ),
            ),
            unit="none",
            steps=BAD_IF_ANY,
            width=5,
        ),
    ),
)


def _fullness(title: str, description: str, load: str, steps: tuple[Step, ...]) -> BarGauge:
    return BarGauge(
        title=title,
        description=description,
        queries=(Query(f"sort_desc({load})", "{{host}}", instant=True),),
        unit="percentunit",
        minimum=0,
        maximum=1,
        steps=steps,
        width=8,
        link=TO_HOST,
    )


FULLNESS = Row(
    "How full each host is",
    (
        _fullness(
            "CPU",
            "Share of CPU time in use. Colours follow the default threshold of 80 %; the configured one is drawn below.",
            CPU_LOAD,
            LOAD,
        ),
        _fullness(
            "Memory",
            "Share of memory in use. Memory that the kernel can reclaim counts as free.",
            MEMORY_LOAD,
            NEARLY_FULL,
        ),
        _fullness(
            "Fullest uplink",
            "Share of the speed in use, of the host's fullest uplink in its busier direction. Absent where no speed is known.",
            FULLEST_UPLINK,
            NEARLY_FULL,
        ),
    ),
)

OVER_TIME = Row(
    "Over time",
    (
        TimeSeries(
            title="CPU over time",
            description="CPU load of each host, and the threshold (the highest, where hosts have their own).",
            queries=(Query(CPU_LOAD, "{{host}}"), Query(THRESHOLD, "threshold")),
            unit="percentunit",
            minimum=0,
            maximum=1,
            styles=(THRESHOLD_LINE,),
            legend_table=True,
            width=24,
            height=9,
            link=TO_HOST,
        ),
        TimeSeries(
            title="Memory over time",
            description="Share of memory in use on each host, and the threshold.",
            queries=(Query(MEMORY_LOAD, "{{host}}"), Query(MEMORY_THRESHOLD, "threshold")),
            unit="percentunit",
            minimum=0,
            maximum=1,
            styles=(THRESHOLD_LINE,),
            link=TO_HOST,
        ),
        TimeSeries(
            title="Fullest uplink over time",
            description="Share of the speed in use, of each host's fullest uplink, and the threshold. Migrations show "
            "as peaks.",
            queries=(Query(FULLEST_UPLINK, "{{host}}"), Query(UPLINK_THRESHOLD, "threshold")),
            unit="percentunit",
            minimum=0,
            styles=(THRESHOLD_LINE,),
            link=TO_HOST,
        ),
        StateTimeline(
            title="State of each host",
            description="As the balancer sees it. Only active hosts take part in balancing.",
            queries=(Query(promql.host_state(f'{BALANCER}, host=~"$host"'), "{{host}}"),),
            unit="none",
            values=STATES,
        ),
        TimeSeries(
            title="Domains on each host",
            description="Running domains by host: a migration moves one from one band to another.",
            queries=(
                Query(
                    by_host(f"count by (instance) (virtpoise_domain_running{{{HOST}}} == 1)"),
                    "{{host}}",
                ),
            ),
            unit="none",
            decimals=0,
            minimum=0,
            stacked=True,
            link=TO_HOST,
        ),
    ),
)

PLACES = Row(
    "Where every domain runs",
    (
        StateTimeline(
            title="Domains and their hosts",
            description="A line for each domain on each host, filled while it runs there: where one line ends and "
            "another begins, "
            "the domain migrated. In a large group choose a few hosts above.",
            queries=(
                Query(
                    by_host(f"max by (domain, instance) (virtpoise_domain_running{{{HOST}}} == 1)"),
                    "{{domain}} on {{host}}",
                ),
            ),
            unit="none",
            values=(Value(1, "runs here", "green"),),
            width=24,
            height=14,
            link=TO_DOMAIN,
        ),
        BarGauge(
            title="Largest domains by CPU",
            description="The 15 domains that keep the most CPUs busy.",
            queries=(
                Query(
                    f"topk(15, sum by (domain) (rate(virtpoise_domain_cpu_seconds_total{{{HOST}}}[$__rate_interval])))",
                    "{{domain}}",
                    instant=True,
                ),
            ),
            unit="suffix: CPUs",
            decimals=2,
            minimum=0,
            steps=(GREEN[0],),
            link=TO_DOMAIN,
        ),
        BarGauge(
            title="Domains that wait most for a CPU",
            description="CPUs for which a domain waited; its guest sees this as steal. A saturated host hides this "
            "demand.",
            queries=(
                Query(
                    f"topk(15, sum by (domain) (rate(virtpoise_domain_cpu_delay_seconds_total{{{HOST}}}[$__rate_interval])))",
                    "{{domain}}",
                    instant=True,
                ),
            ),
            unit="suffix: CPUs",
            decimals=2,
            minimum=0,
            steps=NEARLY_FULL,
            link=TO_DOMAIN,
        ),
    ),
)

FLEET = Dashboard(
    uid="virtpoise-fleet",
    title="Virtpoise / Fleet",
    description="CPU, memory and uplinks of all hosts against their thresholds, and where every domain runs.",
    variables=(promql.JOB_VARIABLE, promql.BALANCER_VARIABLE, promql.GROUP_VARIABLE, promql.host_variable(multi=True)),
    annotations=promql.ANNOTATIONS,
    rows=(NOW, FULLNESS, OVER_TIME, PLACES),
)
