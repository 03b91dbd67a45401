"""The PromQL that several panels share.

Exporters are chosen by ``$job`` and ``$host``, the balancer by ``$balancer`` (its job). A host's name is its target's
``instance`` without the port; the balancer's own metrics carry it as label ``host``. Of two balancers one acts and one
waits: taking the maximum over them gives what the acting one says.
"""

from __future__ import annotations

from virtpoise_dashboards.model import Annotation, Variable

EVENTS_STEP = "60s"

HOST = 'job=~"$job", instance=~"$host(:[0-9]+)?"'
DOMAIN = 'job=~"$job", domain=~"$domain"'
BALANCER = 'job=~"$balancer"'

JOB_VARIABLE = Variable(
    name="job", label="Exporter job", query="label_values(virtpoise_host_cpus, job)", anything=False
)
BALANCER_VARIABLE = Variable(
    name="balancer", label="Balancer job", query="label_values(virtpoise_leader, job)", anything=False
)


def host_variable(*, multi: bool) -> Variable:
    return Variable(
        name="host",
        label="Host",
        query='label_values(virtpoise_host_cpus{job=~"$job"}, instance)',
        regex="/^(.*?)(?::[0-9]+)?$/",
        multi=multi,
    )


def by_host(expr: str) -> str:
    """``expr``, which keeps ``instance``, with the label ``host``."""
    return f'label_replace({expr}, "host", "$1", "instance", "(.*?)(?::[0-9]+)?")'


CPU_LOAD = by_host(
    f'1 - sum by (instance) (rate(virtpoise_host_cpu_seconds_total{{{HOST}, mode=~"idle|iowait"}}[$__rate_interval]))'
    f" / sum by (instance) (rate(virtpoise_host_cpu_seconds_total{{{HOST}}}[$__rate_interval]))"
)
MEMORY_LOAD = by_host(
    f"1 - max by (instance) (virtpoise_host_memory_available_bytes{{{HOST}}})"
    f" / max by (instance) (virtpoise_host_memory_total_bytes{{{HOST}}})"
)


def uplink_load(direction: str) -> str:
    """How full each uplink is in this direction, 0..1; absent where its speed is unknown."""
    return by_host(
        f"sum by (instance, device) (rate(virtpoise_host_network_{direction}_bytes_total{{{HOST}}}[$__rate_interval]))"
        f" / max by (instance, device) (virtpoise_host_network_speed_bytes{{{HOST}}})"
    )


FULLEST_UPLINK = f"max by (host) ({uplink_load('receive')} or {uplink_load('transmit')})"
THRESHOLD = f"max(virtpoise_host_cpu_threshold_ratio{{{BALANCER}}})"


def ended(labels: str, window: str) -> str:
    """Migrations that ended within the window.

    increase() cannot see the first one of a pair of hosts, whose series begins at 1: a series that was not there a window ago
    counts in full, provided that the balancer itself was there.
    """
    series = f"virtpoise_migrations_total{{{BALANCER}}}"
    return (
        f"sum by ({labels}) (({series} unless {series} offset {window}"
        f" and on (job, instance) up{{{BALANCER}}} offset {window} == 1) or increase({series}[{window}]))"
    )


ANNOTATIONS = (
    Annotation(
        "Migrations under way", f"max(virtpoise_migrations_in_flight{{{BALANCER}}}) > 0", "blue", "Migration under way"
    ),
    Annotation(
        "Migrations ended",
        f"{ended('source, destination, result', '30s')} > 0",
        "purple",
        "{{source}} → {{destination}}: {{result}}",
    ),
    Annotation(
        "Drains",
        f'max by (host) (virtpoise_host_state{{{BALANCER}, state="draining"}}) > 0',
        "orange",
        "{{host}} drains",
    ),
)

HOST_STATES = ("active", "draining", "standby", "waking", "unknown")


def host_state(selector: str) -> str:
    """One number per host, its state's place in HOST_STATES, counted from 1."""
    arms = (
        f'{i} * max by (host) (virtpoise_host_state{{{selector}, state="{state}"}} == 1)'
        for i, state in enumerate(HOST_STATES, 1)
    )
    return " or ".join(arms)
