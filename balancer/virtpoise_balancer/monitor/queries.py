"""The queries for Prometheus, in PromQL.

Each query returns one series per host (label ``instance``) or per host and domain (``instance`` and ``uuid``).
``domain_running`` also has ``domain``, the name. Those about huge pages have ``size``, that of a page in bytes, and of
hosts also ``node``, the number of a NUMA node.
Placeholders:

- ``$reading``: the range of one sample of the load; ``$window``: that of N samples (durations).
- ``$rate``: the function that makes one sample of counters over ``$reading``: irate where a step has one scrape.
- ``$slow``: the range that damps network noise.
- ``$memory``: how long a silent host is still listed, as unknown.
- ``$history``, ``$resolution``: how far back the recent past goes, and its step.
- ``$saturation``: the load from which on a host hides demand (a ratio).
- ``$lag``: how much older than its host's newest sample that of a domain may be (a number of seconds).
- ``$stale``: from which age on a sample is no longer what is (a number of seconds).
- ``$matchers``: the label matchers (``prometheus.matchers``) of the targets. Each selector has them.

Every query can be replaced in the configuration (``prometheus.queries``), so that other exporters can serve.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from string import Template

# An operator that matches series one to one, and label_replace(), fail as a whole where an unexpected label makes a
# match ambiguous or two series one. So both sides are summed up by the labels that matter first: one host's exporter
# cannot make a query fail for all.
_SPEED = "max by (instance, device) (virtpoise_host_network_speed_bytes{{$matchers}})"

_BY_UPLINK = (
    "sum by (instance, uuid, uplink) (rate(virtpoise_domain_network_{direction}_bytes_total{{$matchers}}[$slow]))"
)

_UPLINK_RATIO = f"""
sum by (instance, uuid) (
  {_BY_UPLINK}
  / on (instance, uplink) group_left ()
  label_replace({_SPEED}, "uplink", "$$1", "device", "(.*)")
)
"""

_HOST_CPU_RATIO = (
    '1 - sum by (instance) ($rate(virtpoise_host_cpu_seconds_total{mode=~"idle|iowait",$matchers}[$reading]))'
    " / sum by (instance) ($rate(virtpoise_host_cpu_seconds_total{$matchers}[$reading]))"
)


def unsaturated(rates: str, host_ratio: str, host: str) -> str:
    """The mean rate over those recent steps in which the host was not saturated: then a domain got what it wanted.

    ``host``: the label that both sides have. A counter that restarted within a step falls, so that step is left out.
    One comparison says both: a saturated host has no zero.
    """
    return f"""
avg_over_time((
  {rates} >= on ({host}) group_left () 0 * (({host_ratio}) < $saturation)
)[$history:$resolution])
""".strip()


def _unsaturated(metric: str) -> str:
    return unsaturated(f"deriv({metric}{{$matchers}}[$reading])", _HOST_CPU_RATIO, "instance")


# The hosts that were saturated in one of these steps.
SATURATED_LATELY = f"max_over_time(({_HOST_CPU_RATIO})[$history:$resolution]) >= $saturation"

# The same mean of domains on hosts that were not: a match in each step takes Prometheus most of the time.
_CALM = "avg_over_time((deriv({metric}{{$matchers}}[$reading]) >= 0)[$history:$resolution])"

_HOST_LINK_RATIO = f"""
max by (instance) (
  sum by (instance, device) (rate(virtpoise_host_network_{{direction}}_bytes_total{{{{$matchers}}}}[$slow]))
  / {_SPEED}
)
"""

# A pool of static huge pages is never available to anything else: it is no part of the ordinary memory. An exporter
# without that figure has none.
_ORDINARY = """
{total} - ({hugepages} or 0 * {total})
"""
_ORDINARY_NOW = _ORDINARY.format(
    total="virtpoise_host_memory_total_bytes{$matchers}", hugepages="virtpoise_host_memory_hugepages_bytes{$matchers}"
).strip()


def of_now(series: str, up: str, condition: str = "") -> str:
    """The series (a selector) that the newest scrape of their target has; ``up``: a metric that each scrape has.

    Series that end while Prometheus is away get no marker of their end, and would be listed for minutes more. So a
    sample older than the newest of its target does not count: all samples of a scrape have one time. The lag is for
    stores that merge several Prometheus servers, series by series.
    """
    return f"""
{series}{condition} unless (
  timestamp({series})
  < on (job, instance) group_left () (max by (job, instance) (timestamp({up}{{$matchers}})) - $lag)
)
""".strip()


def _of_now(series: str, condition: str = "") -> str:
    return of_now(series, "virtpoise_libvirt_up", condition)


# The means over the recent past, each with its counter. Its steps lie on a grid of their own ($resolution), and until
# the next of them the answer is the same.
OF_THE_PAST = {
    "domain_cpu_cores_unsaturated": "virtpoise_domain_cpu_seconds_total",
    "domain_cpu_delay_cores_unsaturated": "virtpoise_domain_cpu_delay_seconds_total",
}

QUERIES: dict[str, str] = {
    # hosts
    "host_cpus": "last_over_time(virtpoise_host_cpus{$matchers}[$memory])",
    "host_memory_bytes": _ORDINARY.format(
        total="last_over_time(virtpoise_host_memory_total_bytes{$matchers}[$memory])",
        hugepages="last_over_time(virtpoise_host_memory_hugepages_bytes{$matchers}[$memory])",
    ).strip(),
    "host_sample_time": "timestamp(virtpoise_host_cpus{$matchers})",
    "host_cpu_ratio": _HOST_CPU_RATIO,
    "host_cpu_speed": "virtpoise_host_cpu_speed_ratio{$matchers}",
    "host_memory_available_bytes": "virtpoise_host_memory_available_bytes{$matchers}",
    "host_memory_ratio": f"1 - virtpoise_host_memory_available_bytes{{$matchers}} / ({_ORDINARY_NOW})",
    "host_hugepages_free": "sum by (instance, size, node) (virtpoise_host_hugepages_free{$matchers})",
    # with the device: a domain's part of an uplink is made of it
    "host_uplink_bytes_per_second": _SPEED.format(),
    "host_rx_ratio": _HOST_LINK_RATIO.format(direction="receive").strip(),
    "host_tx_ratio": _HOST_LINK_RATIO.format(direction="transmit").strip(),
    # whether libvirt answers the exporter (1 or 0), and what it counts itself: without them no list of domains stands
    "host_libvirt_up": "virtpoise_libvirt_up{$matchers}",
    "host_domains_active": 'virtpoise_domains{state="active",$matchers}',
    "host_domains_inactive": 'virtpoise_domains{state="inactive",$matchers}',
    # domains
    "domain_running": _of_now("virtpoise_domain_running{$matchers}"),
    "domain_placement": _of_now("virtpoise_domain_placement{$matchers}", " == 1"),
    # active without running: paused, suspended to memory, crashed, in shutdown
    "domain_paused": _of_now('virtpoise_domain_state{state!~"running|shutoff",$matchers}', " == 1"),
    "domain_vcpus": "virtpoise_domain_vcpus{$matchers}",
    "domain_memory_bytes": "virtpoise_domain_memory_bytes{$matchers}",
    "domain_memory_maximum_bytes": "virtpoise_domain_memory_maximum_bytes{$matchers}",
    "domain_hugepages_bytes": "virtpoise_domain_hugepages_bytes{$matchers}",
    "domain_memory_resident_bytes": "virtpoise_domain_memory_resident_bytes{$matchers}",
    # The slope through the samples that there are: rate() takes a domain that arrived within the window for less than
    # it is.
    "domain_cpu_cores": "deriv(virtpoise_domain_cpu_seconds_total{$matchers}[$window])",
    "domain_cpu_delay_cores": "deriv(virtpoise_domain_cpu_delay_seconds_total{$matchers}[$window])",
    **{name: _unsaturated(metric) for name, metric in OF_THE_PAST.items()},
    "domain_rx_bytes_per_second": _BY_UPLINK.format(direction="receive"),
    "domain_tx_bytes_per_second": _BY_UPLINK.format(direction="transmit"),
    "domain_rx_ratio": _UPLINK_RATIO.format(direction="receive").strip(),
    "domain_tx_ratio": _UPLINK_RATIO.format(direction="transmit").strip(),
}


# A sample older than this many scrapes is no longer what is.
STALE_SCRAPES = 3.5
# How far back the recent past goes.
PAST_SECONDS = 600.0
# The ranges that are numbers in PromQL, and not durations.
_NUMBERS = ("saturation", "lag", "stale")

# Each sum of traffic by uplink, and the part of these uplinks that is made of it and of `host_uplink_bytes_per_second`.
# So the parts are queried only where one of these queries is the configuration's own.
BY_UPLINK = {"domain_rx_bytes_per_second": "domain_rx_ratio", "domain_tx_bytes_per_second": "domain_tx_ratio"}

# Those that take Prometheus longest. They are asked first, so that nothing waits for them alone in the end.
DEAREST = (
    *OF_THE_PAST,
    "domain_rx_bytes_per_second",
    "domain_tx_bytes_per_second",
    "domain_running",
    "host_cpu_ratio",
)


def made_of_others(own: Collection[str]) -> frozenset[str]:
    """The queries that need not be asked. ``own``: those that are the configuration's."""
    return frozenset(
        part
        for traffic, part in BY_UPLINK.items()
        if not {traffic, part, "host_uplink_bytes_per_second"}.intersection(own)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranges:
    """The ranges of the queries, in seconds (``saturation`` is a ratio).

    ``rate()`` needs two samples within its range, so each has room for a late scrape. ``rate``: the function by which
    a sample of the load is made. Where a step has one scrape it is ``irate``, the rate between the newest two: over the
    whole range it would be that of two steps for half of the hosts, by the moment at which they are scraped.
    """

    reading: float
    window: float
    slow: float
    resolution: float
    saturation: float
    lag: float
    stale: float
    rate: str = "rate"
    memory: float = 600.0
    # Less than whole steps, so that it always holds as many: its beginning is none of them.
    history: float = PAST_SECONDS - 0.001

    @classmethod
    @lru_cache(maxsize=64)  # a look asks for the same each time
    def of(
        cls, *, step_seconds: float, scrape_interval_seconds: float, consecutive: int, saturation_ratio: float
    ) -> Ranges:
        slack = 1.5 * scrape_interval_seconds
        return cls(
            reading=step_seconds + slack,
            window=consecutive * step_seconds + slack,
            slow=max(60.0, 4 * scrape_interval_seconds),
            resolution=max(step_seconds, 20.0),
            saturation=saturation_ratio,
            lag=slack,
            stale=STALE_SCRAPES * scrape_interval_seconds,
            rate="irate" if step_seconds < 2 * scrape_interval_seconds else "rate",
        )


def of_the_past(name: str, saturated: Sequence[str], ranges: Ranges, matchers: str) -> str:
    """The query of a mean over the recent past, of whose steps only those hosts need a look at each.

    ``saturated``: the instances of the hosts that were saturated lately.
    """
    calm = _CALM.format(metric=OF_THE_PAST[name])
    if not saturated:
        return render(calm, ranges, matchers)
    named = "|".join(map(_in_pattern, sorted(saturated)))
    hot = render(QUERIES[name], ranges, _with(matchers, f'instance=~"{named}"'))
    return f"""{hot}\nor\n{render(calm, ranges, _with(matchers, f'instance!~"{named}"'))}"""


def has_matchers(query: str) -> bool:
    """Whether the query has a place for the label matchers."""
    return "matchers" in Template(query).get_identifiers()


@lru_cache(maxsize=256)  # a cycle asks the same each time
def render(query: str, ranges: Ranges, matchers: str) -> str:
    """The query with the label matchers in its selectors, and with its durations in whole milliseconds as PromQL wants
    them.
    """
    numbers = {name: f"{getattr(ranges, name):g}" for name in _NUMBERS}
    durations = {
        field.name: f"{round(getattr(ranges, field.name) * 1000)}ms"
        for field in fields(Ranges)
        if field.name not in (*_NUMBERS, "rate")
    }
    return Template(query).safe_substitute(durations, **numbers, rate=ranges.rate, matchers=matchers)


def narrowed(matchers: str, hosts: Iterable[str]) -> str:
    """The matchers, and that a target is one of these hosts, on any port.

    They stay as they are when a host is an IPv6 address, which a target's label can write in several ways.
    """
    names = sorted(set(hosts))
    if any(":" in name for name in names):
        return matchers
    return _with(matchers, f'instance=~"({"|".join(map(_in_pattern, names))})(:[0-9]+)?"')


def and_equal(matchers: str, label: str, value: str) -> str:
    """The matchers, and that a label has this value; the empty one is that of no label."""
    quoted = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return _with(matchers, f'{label}="{quoted}"')


def _in_pattern(text: str) -> str:
    """Fits the text alone, in a pattern that stands in PromQL's double quotes."""
    return re.escape(text).replace("\\", "\\\\").replace('"', '\\"')


def _with(matchers: str, more: str) -> str:
    return f"{matchers},{more}" if matchers else more
