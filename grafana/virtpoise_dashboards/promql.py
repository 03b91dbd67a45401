"""The PromQL that several panels share.

Exporters are chosen by ``$job`` and ``$host``, the balancer by ``$balancer`` (its job) and its figures by ``$group``. A
host's name is its target's ``instance`` without the port; the balancer's own metrics carry it as label ``host``. Of two
balancers one acts and one waits: taking the maximum over them gives what the acting one says.
"""

from __future__ import annotations

from virtpoise_dashboards.model import Annotation, Variable

EVENTS_STEP = "60s"

# The balancer names a host by its address alone, and Prometheus puts an IPv6 address into brackets.
_HOST_OF = "[[](.*)[]](?::[0-9]+)?|([^:]*)(?::[0-9]+)?|(.*)"
HOST = 'job=~"$job", instance=~"[[]?$host[]]?(:[0-9]+)?"'
DOMAIN = 'job=~"$job", domain=~"$domain"'
PROCESS = 'job=~"$balancer"'
# Its figures of the groups that are chosen. Where there are no groups they have no such label, and "All" matches that.
BALANCER = f'{PROCESS}, group=~"$group"'

JOB_VARIABLE = Variable(
    name="job", label="Exporter job", query="label_values(virtpoise_host_cpus, job)", anything=False
)
BALANCER_VARIABLE = Variable(
    name="balancer", label="Balancer job", query="label_values(virtpoise_leader, job)", anything=False
)
GROUP_VARIABLE = Variable(name="group", label="Group", query=f"label_values(virtpoise_leader{{{PROCESS}}}, group)")


def host_variable(*, multi: bool) -> Variable:
    return Variable(
        name="host",
        label="Host",
        query='label_values(virtpoise_host_cpus{job=~"$job"}, instance)',
        regex=r"/^\[?(.*?)\]?(?::[0-9]+)?$/",
        multi=multi,
    )


def counted(found: str, among: str) -> str:
    """How many series ``found`` has; 0 where it has none, and nothing where ``among`` has none either."""
    return f"count({found}) or 0 * count({among})"


def by_host(expr: str) -> str:
    """``expr``, which keeps ``instance``, with the label ``host``."""
    return f'label_replace({expr}, "host", "$1$2$3", "instance", "{_HOST_OF}")'


CPU_LOAD = by_host(
    f'1 - sum by (instance) (rate(virtpoise_host_cpu_seconds_total{{{HOST}, mode=~"idle|iowait"}}[$__rate_interval]))'
    f" / sum by (instance) (rate(virtpoise_host_cpu_seconds_total{{{HOST}}}[$__rate_interval]))"
)
MEMORY_LOAD = by_host(
    f"1 - max by (instance) (virtpoise_host_memory_available_bytes{{{HOST}}})"
    f" / (max by (instance) (virtpoise_host_memory_total_bytes{{{HOST}}})"
    # a pool of static huge pages is no ordinary memory
    f" - (max by (instance) (virtpoise_host_memory_hugepages_bytes{{{HOST}}})"
    f" or 0 * max by (instance) (virtpoise_host_memory_total_bytes{{{HOST}}})))"
)


def uplink_load(direction: str) -> str:
    """How full each uplink is in this direction, 0..1; absent where its speed is unknown."""
    return by_host(
        f"sum by (instance, device) (rate(virtpoise_host_network_{direction}_bytes_total{{{HOST}}}[$__rate_interval]))"
        f" / max by (instance, device) (virtpoise_host_network_speed_bytes{{{HOST}}})"
    )


FULLEST_UPLINK = f"max by (host) ({uplink_load('receive')} or {uplink_load('transmit')})"
THRESHOLD = f"max(virtpoise_cpu_threshold_ratio{{{BALANCER}}})"
MEMORY_THRESHOLD = f"max(virtpoise_memory_threshold_ratio{{{BALANCER}}})"
UPLINK_THRESHOLD = f"max(virtpoise_network_threshold_ratio{{{BALANCER}}})"


MIGRATIONS = f"virtpoise_migrations_total{{{BALANCER}}}"


def _begun(window: str) -> str:
    """Migrations of pairs of hosts that had none a window ago.

    increase() cannot see them: their series begins at 1. They count only if the balancer was there a window ago, since
    after an outage of Prometheus every series looks new.
    """
    return (
        f"({MIGRATIONS} unless {MIGRATIONS} offset {window}"
        f" and on (job, instance) up{{{PROCESS}}} offset {window} == 1)"
    )


def ended_in_steps(labels: str) -> str:
    """Migrations that ended, counted in windows of one step and a scrape."""
    window = "$__rate_interval"
    return f"sum by ({labels}) ({_begun(window)} or increase({MIGRATIONS}[{window}]))"


def ended_in_range(labels: str) -> str:
    """Migrations that ended in the time shown, with those of a balancer that has started in it.

    Or up to a minute before it, so that nothing is lost between the start and the first scrape.
    """
    window = "$__range"
    started = f"time() - virtpoise_start_timestamp_seconds{{{PROCESS}}} < $__range_s + 60"
    return (
        f"sum by ({labels}) (({MIGRATIONS} unless {MIGRATIONS} offset {window} and on (job, instance) {started})"
        f" or {_begun(window)} or increase({MIGRATIONS}[{window}]))"
    )


# Above zero in the one step in which a migration ended.
JUST_ENDED = (
    "sum by (source, destination, result)"
    f" ({_begun('$__interval')} or ({MIGRATIONS} - {MIGRATIONS} offset $__interval)) > 0"
)

ANNOTATIONS = (
    Annotation(
        "Running migrations", f"max(virtpoise_migrations_in_flight{{{BALANCER}}}) > 0", "blue", "Running migration"
    ),
    Annotation("Migrations ended", JUST_ENDED, "purple", "{{source}} → {{destination}}: {{result}}"),
    Annotation(
        "Drains",
        f"max by (host) (virtpoise_host_draining{{{BALANCER}}}) > 0",
        "orange",
        "{{host}} drains",
    ),
)


HOST_STATES = ("active", "draining", "standby", "waking", "unknown")


def host_state(selector: str) -> str:
    """One number per host, its state's place in HOST_STATES, counted from 1. An active host has only a load."""
    arms = (
        f'{i} * max by (host) (virtpoise_host_state{{{selector}, state="{state}"}} == 1)'
        for i, state in enumerate(HOST_STATES, 1)
        if state != "active"
    )
    return f"{' or '.join(arms)} or 1 + 0 * max by (host) (virtpoise_host_cpu_load_ratio{{{selector}}})"
