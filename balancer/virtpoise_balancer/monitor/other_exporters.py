"""The queries for hosts that run node_exporter and one of the libvirt exporters in place of virtpoise's, in PromQL.

The metrics are documented in docs/sources.md. Beside the placeholders of ``queries``, nothing is filled in later.
"""

from __future__ import annotations

from virtpoise_balancer.monitor.queries import of_now, unsaturated

# A host's exporters are targets of their own: h1:9100 and h1:9177. The label virtpoise_host is what they share, and it
# is added beside ``instance``. Where two series become one by it, the query fails for all hosts. So an exporter's own
# label of this name is dropped first.
_HOST = (
    r"""label_replace(max without (virtpoise_host) ({query}), "virtpoise_host", "$$1$$2", "instance", """
    r"""`([[].*[]]|[^:]*):[0-9]+|(.*)`)"""
)


def _with_host(query: str) -> str:
    return _HOST.format(query=query.strip())


# node_exporter runs on other machines as well. A hypervisor is where a libvirt exporter answers, or did lately.
_HYPERVISORS = _with_host("last_over_time(libvirt_up{$matchers}[$memory] @ end())")


def _of_hypervisors(query: str) -> str:
    return f"max without (virtpoise_host) (\n  {_with_host(query)}\n  and on (virtpoise_host) {_HYPERVISORS}\n)"


# --- node_exporter

_TOTAL = "{sample}node_memory_MemTotal_bytes{{$matchers}}{range}"
# Pools of static huge pages are never available to anything else.
_ORDINARY = f"""
({_TOTAL} - ({{sample}}node_memory_Hugetlb_bytes{{{{$matchers}}}}{{range}} or 0 * {_TOTAL}))
"""
_ORDINARY_NOW = _ORDINARY.format(sample="", range="").strip()
_ORDINARY_LATELY = _ORDINARY.format(sample="last_over_time(", range="[$memory])").strip()
# ZFS gives its cache back down to its minimum, which the kernel does not count as available.
_WITH_CACHE = """
(node_memory_MemAvailable_bytes{$matchers} + (
  clamp_min(node_zfs_arc_size{$matchers} - node_zfs_arc_c_min{$matchers}, 0) or 0 * node_memory_MemAvailable_bytes{$matchers}
))
""".strip()
# node_exporter reads the two one after the other, so together they may pass what there is.
_AVAILABLE = f"({_WITH_CACHE} <= {_ORDINARY_NOW} or {_ORDINARY_NOW})"
_CPU_RATIO = (
    '1 - sum by (instance) ($rate(node_cpu_seconds_total{mode=~"idle|iowait",$matchers}[$reading]))'
    " / sum by (instance) ($rate(node_cpu_seconds_total{$matchers}[$reading]))"
)
# Devices that know their speed. A domain's tap claims 10 Mbit/s; -1, 65,535 Mbit/s and 2^32 - 1 stand for unknown. A
# container's veth claims 10,000 Mbit/s, and so does the bridge that holds it.
_SPEED = '(((node_network_speed_bytes{device!~"veth.*|docker.*",$matchers} > 1.25e6) < 1e12) != 8191875000)'


def _link_ratio(direction: str) -> str:
    return f"""
max by (instance) (
  sum by (instance, device) (rate(node_network_{direction}_bytes_total{{$matchers}}[$slow]))
  / max by (instance, device) {_SPEED}
)
"""


_OF_HOSTS = {
    "host_cpus": 'count without (cpu, mode) (last_over_time(node_cpu_seconds_total{mode="idle",$matchers}[$memory]))',
    "host_memory_bytes": _ORDINARY_LATELY,
    "host_sample_time": "timestamp(node_memory_MemTotal_bytes{$matchers})",
    "host_cpu_ratio": _CPU_RATIO,
    "host_memory_available_bytes": _AVAILABLE,
    "host_memory_ratio": f"1 - {_AVAILABLE} / {_ORDINARY_NOW}",
    "host_uplink_bytes_per_second": f"max by (instance) {_SPEED}",
    "host_rx_ratio": _link_ratio("receive"),
    "host_tx_ratio": _link_ratio("transmit"),
}
NODE_EXPORTER = {name: _of_hypervisors(query) for name, query in _OF_HOSTS.items()}

# --- libvirt exporters

_KEYS = "instance, job, domain"
# libvirt's virDomainState
_RUNNING, _SHUTOFF = 1, 5
# A target that fails or ends takes its series with it. Where Prometheus was away, they stay for minutes.
_LIBVIRT_UP = "libvirt_up{$matchers} unless (timestamp(libvirt_up{$matchers}) < time() - $stale)"


def _libvirt_exporter(
    *, state: str | None, uuids: str | None, delay: bool = False, resident: bool = False, counted: str | None = None
) -> dict[str, str]:
    """The queries for one exporter. What it does not export is left out.

    ``state``: its metric of a domain's state, a number of libvirt's. ``uuids``: a query that names the ``uuid`` of each
    domain of a target, or None where each series has it. ``counted``: the number of active domains.
    """

    def of_domains(query: str, *, add_up: bool = False) -> str:
        """One series a domain, with its uuid."""
        operator = "sum" if add_up else "max"
        if uuids is None:
            return f"{operator} by ({_KEYS}, uuid) (\n{query.strip()}\n)"
        # Of two uuids for one name the target gets one: ambiguous, it would fail the query for all.
        one_each = f"topk by ({_KEYS}) (1, max by ({_KEYS}, uuid) ({uuids}))"
        return f"{operator} by ({_KEYS}) (\n{query.strip()}\n) * on ({_KEYS}) group_left (uuid) {one_each}"

    def info(name: str) -> str:
        return f"libvirt_domain_info_{name}{{$matchers}}"

    def traffic(direction: str) -> str:
        return f"rate(libvirt_domain_interface_stats_{direction}_bytes_total{{$matchers}}[$slow])"

    def uplink_share(direction: str) -> str:
        """Which device carries a domain's traffic is not exported: it is taken for the host's fastest one."""
        return (
            f"{_with_host(of_domains(traffic(direction), add_up=True))}\n"
            f"/ on (virtpoise_host) group_left () max by (virtpoise_host) ({_with_host(_SPEED)})"
        )

    def lately(counter: str, *, add_up: bool = False) -> str:
        rates = f"deriv({counter}[$reading])"
        if add_up:
            rates = f"sum by ({_KEYS}) ({rates})"
        host_ratio = f"max by (virtpoise_host) ({_with_host(_CPU_RATIO)})"
        return of_domains(unsaturated(_with_host(rates), host_ratio, "virtpoise_host"))

    listed = of_now(state or info("virtual_cpus"), "libvirt_up")
    cpu_seconds, delay_seconds = info("cpu_time_seconds_total"), "libvirt_domain_vcpu_delay_seconds_total{$matchers}"
    queries = {
        "host_libvirt_up": _LIBVIRT_UP,
        "domain_running": of_domains(f"({listed}) == bool {_RUNNING}" if state else f"({listed}) > bool 0"),
        "domain_vcpus": of_domains(info("virtual_cpus")),
        "domain_memory_bytes": of_domains(info("memory_usage_bytes")),
        "domain_memory_maximum_bytes": of_domains(info("maximum_memory_bytes")),
        "domain_cpu_cores": of_domains(f"deriv({cpu_seconds}[$window])"),
        "domain_cpu_cores_unsaturated": lately(cpu_seconds),
        "domain_rx_bytes_per_second": of_domains(traffic("receive"), add_up=True),
        "domain_tx_bytes_per_second": of_domains(traffic("transmit"), add_up=True),
        "domain_rx_ratio": uplink_share("receive"),
        "domain_tx_ratio": uplink_share("transmit"),
    }
    if state:
        queries["domain_paused"] = of_domains(f"(({listed}) != {_RUNNING}) != {_SHUTOFF}")
    if counted:
        queries["host_domains_active"] = counted
    if delay:
        queries["domain_cpu_delay_cores"] = of_domains(f"deriv({delay_seconds}[$window])", add_up=True)
        queries["domain_cpu_delay_cores_unsaturated"] = lately(delay_seconds, add_up=True)
    if resident:  # 0 stands for unknown
        queries["domain_memory_resident_bytes"] = of_domains("libvirt_domain_memory_stats_rss_bytes{$matchers} > 0")
    return queries


def _count(state: str, condition: str) -> str:
    return f"(count by (instance, job) ({of_now(state, 'libvirt_up', condition)}) or 0 * max by (instance, job) (libvirt_up{{$matchers}}))"


_TINKOFF_STATE = "libvirt_domain_info_vstate{$matchers}"
_INOVEX_STATE = "libvirt_domain_info_state{$matchers}"
_INOVEX_UUID = (  # of any domain
    'label_replace(max without (uuid) (libvirt_domain_openstack_info{$matchers}), "uuid", "$$1", "instance_id", "(.*)")'
)

DEBIAN = _libvirt_exporter(
    state="libvirt_domain_state_code{$matchers}", uuids=None, counted="libvirt_domains_number{$matchers}"
)
KUMINA = _libvirt_exporter(state=None, uuids=None)
# What it lists is counted as well, before the uuids are joined: a domain without one is no domain less.
TINKOFF = _libvirt_exporter(
    state=_TINKOFF_STATE,
    uuids="libvirt_domain_info_meta{$matchers}",
    delay=True,
    resident=True,
    counted=_count(_TINKOFF_STATE, f" == {_RUNNING}"),
)
# It counts all domains. Those that it lists as shut off are taken from that.
INOVEX = _libvirt_exporter(
    state=_INOVEX_STATE,
    uuids=_INOVEX_UUID,
    delay=True,
    resident=True,
    counted=f"max by (instance, job) (libvirt_domains{{$matchers}}) - {_count(_INOVEX_STATE, f' == {_SHUTOFF}')}",
)
