"""Half an hour of a made-up group of hosts, in the metrics that the exporter and the balancer give.

Three hosts of four CPUs. h1 is overloaded from the fifth minute; vm2 leaves it for h2, later vm3 for h3; a migration
from h1 to h2 fails; at the end h3 drains and its domain moves to h2. A blackout window holds for a while, and later the
brake.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass

STEP = 10
LENGTH = 1800
CPUS = 4
GIB = 2**30
HOSTS = ("h1", "h2", "h3")
EXPORTER = "virtpoise-exporter"
BALANCER = {"job": "virtpoise-balancer", "instance": "127.0.0.1:9808"}


@dataclass(frozen=True)
class Move:
    domain: str
    source: str
    destination: str
    start: int
    end: int
    result: str
    predicted: tuple[float, float]


MOVES = (
    Move("vm2", "h1", "h2", 420, 440, "done", (0.72, 0.42)),
    Move("vm1", "h1", "h2", 700, 720, "failed", (0.5, 0.6)),
    Move("vm3", "h1", "h3", 900, 930, "done", (0.52, 0.3)),
    Move("vm3", "h3", "h2", 1500, 1520, "done", (0.05, 0.62)),
)
PLACED = {"vm1": "h1", "vm2": "h1", "vm3": "h1", "vm4": "h2", "vm5": "h3"}
DRAIN = ("h3", 1400)
BLACKOUT = ("backup", 1000, 1100)
BRAKE = ("migrations", 1200, 1300)
THRESHOLD = 0.8
MEASURED_AFTER = 120

Labels = tuple[tuple[str, str], ...]
Samples = dict[str, dict[Labels, list[tuple[float, float]]]]


def host_of(domain: str, time: int) -> str | None:
    """Where the domain runs; vm5 is shut off before the drain."""
    if domain == "vm5" and time >= DRAIN[1]:
        return None
    host = PLACED[domain]
    for move in MOVES:
        if move.domain == domain and move.result == "done" and time >= move.end:
            host = move.destination
    return host


def cores(domain: str, time: int) -> float:
    base = {"vm1": 1.1, "vm2": 0.9, "vm3": 0.9, "vm4": 0.7, "vm5": 0.2}[domain]
    surge = 0.35 if domain in ("vm1", "vm2", "vm3") and time >= 300 else 0.0
    return base + surge + 0.06 * math.sin(time / 37 + len(domain) * ord(domain[-1]))


def load(host: str, time: int) -> float:
    """Share of the host's CPUs in use: its domains', and a little of its own."""
    used = 0.12 + sum(cores(domain, time) for domain in PLACED if host_of(domain, time) == host)
    return min(0.99, used / CPUS)


class Scenario:
    """All samples, ending at Unix time ``end``."""

    def __init__(self, end: float) -> None:
        self.start = int(end) - LENGTH
        self.samples: Samples = defaultdict(lambda: defaultdict(list))
        # By role, then by source and destination
        self._errors: dict[str, dict[tuple[str, str], list[float]]] = defaultdict(lambda: defaultdict(list))
        self._totals: dict[tuple[str, Labels], float] = defaultdict(float)
        self._time = 0
        for time in range(0, LENGTH + 1, STEP):
            self._time = time
            for host in HOSTS:
                self._exporter(host)
            for domain in PLACED:
                self._domain(domain)
            self._balancer()

    def openmetrics(self) -> str:
        lines = []
        for name, series in sorted(self.samples.items()):
            for labels, points in series.items():
                written = ",".join(f'{label}="{value}"' for label, value in labels)
                lines += [f"{name}{{{written}}} {value} {time}" for time, value in points]
        return "\n".join([*lines, "# EOF", ""])

    def _put(self, name: str, value: float, **labels: str) -> None:
        self.samples[name][tuple(sorted(labels.items()))].append((self.start + self._time, value))

    def _grow(self, name: str, by: float, **labels: str) -> None:
        key = (name, tuple(sorted(labels.items())))
        self._totals[key] += by
        self._put(name, self._totals[key], **labels)

    def _exporter(self, host: str) -> None:
        target = {"job": EXPORTER, "instance": f"{host}:9807"}
        busy = load(host, self._time) * CPUS * STEP
        for mode, share in (("user", 0.85), ("system", 0.13), ("nice", 0.02)):
            self._grow("virtpoise_host_cpu_seconds_total", busy * share, mode=mode, **target)
        self._grow("virtpoise_host_cpu_seconds_total", (CPUS * STEP - busy) * 0.97, mode="idle", **target)
        self._grow("virtpoise_host_cpu_seconds_total", (CPUS * STEP - busy) * 0.03, mode="iowait", **target)
        here = [domain for domain in PLACED if host_of(domain, self._time) == host]
        self._put("up", 1, **target)
        self._put("scrape_duration_seconds", 0.02 + 0.004 * len(here), **target)
        self._put("scrape_samples_scraped", 60 + 14 * len(here), **target)
        self._put("virtpoise_host_cpus", CPUS, **target)
        self._put("virtpoise_host_memory_total_bytes", 16 * GIB, **target)
        self._put("virtpoise_host_memory_available_bytes", (15 - 3 * len(here)) * GIB, **target)
        self._put("virtpoise_host_memory_hugepages_bytes", GIB // 2, **target)
        self._put("virtpoise_host_swap_total_bytes", 2 * GIB, **target)
        self._put("virtpoise_host_swap_free_bytes", 1.9 * GIB, **target)
        moving = any(host in (m.source, m.destination) and m.start <= self._time < m.end for m in MOVES)
        for direction in ("receive", "transmit"):
            rate = 110e6 if moving else 2e6 * (1 + len(here))
            self._grow(f"virtpoise_host_network_{direction}_bytes_total", rate * STEP, device="eth0", **target)
        self._put("virtpoise_host_network_speed_bytes", 125e6, device="eth0", **target)
        for resource, share in (("cpu", max(0.0, load(host, self._time) - 0.6)), ("memory", 0.0), ("io", 0.01)):
            self._grow("virtpoise_host_pressure_seconds_total", share * STEP, resource=resource, kind="some", **target)
        self._put(
            "virtpoise_host_info",
            1,
            hostname=host,
            host_uuid=f"uuid-{host}",
            cpu_model="Made-up CPU",
            arch="x86_64",
            hypervisor="QEMU 7.2.0",
            libvirt_version="9.0.0",
            **target,
        )
        self._put("virtpoise_libvirt_up", 0 if host == "h2" and 1100 <= self._time < 1160 else 1, **target)
        self._put("virtpoise_domains", len(here), state="active", **target)
        self._put("virtpoise_domains", 1, state="inactive", **target)
        self._put("virtpoise_exporter_build_info", 1, version="0.1.0", **target)
        for collector in ("cpu", "memory", "network", "domains"):
            self._put("virtpoise_exporter_collector_success", 1, collector=collector, **target)
            self._put("virtpoise_exporter_collector_duration_seconds", 0.002, collector=collector, **target)

    def _domain(self, domain: str) -> None:
        host = host_of(domain, self._time)
        for move in MOVES:  # arriving, and paused there
            if move.domain == domain and move.start <= self._time < move.end:
                arriving = {"job": EXPORTER, "instance": f"{move.destination}:9807"}
                self._put("virtpoise_domain_running", 0, domain=domain, uuid=f"uuid-{domain}", **arriving)
        if host is None:
            return
        one = {"domain": domain, "uuid": f"uuid-{domain}", "job": EXPORTER, "instance": f"{host}:9807"}
        self._put("virtpoise_domain_info", 1, **one)
        self._put("virtpoise_domain_running", 1, **one)
        self._put("virtpoise_domain_vcpus", 2, **one)
        self._put("virtpoise_domain_memory_bytes", 2 * GIB, **one)
        self._put("virtpoise_domain_memory_maximum_bytes", 4 * GIB, **one)
        self._put("virtpoise_domain_memory_resident_bytes", 1.6 * GIB, **one)
        self._put("virtpoise_domain_hugepages_bytes", GIB // 8, size="2097152", **one)
        self._grow("virtpoise_domain_cpu_seconds_total", cores(domain, self._time) * STEP, **one)
        waits = max(0.0, load(host, self._time) - 0.75)
        self._grow("virtpoise_domain_cpu_delay_seconds_total", waits * STEP, **one)
        for direction in ("receive", "transmit"):
            self._grow(
                f"virtpoise_domain_network_{direction}_bytes_total", 1e6 * STEP, device="vnet0", uplink="eth0", **one
            )
        for what in ("read", "written"):
            self._grow(f"virtpoise_domain_block_{what}_bytes_total", 5e5 * STEP, device="vda", **one)

    def _balancer(self) -> None:
        time = self._time
        self._put("up", 1, **BALANCER)
        self._put("virtpoise_leader", 1, **BALANCER)
        braked = BRAKE[1] <= time < BRAKE[2]
        self._put("virtpoise_mode", float(not braked), mode="automatic", **BALANCER)
        self._put("virtpoise_mode", float(braked), mode="recommend", **BALANCER)
        for cause in ("migrations", "predictions", "others"):
            self._put("virtpoise_brake", float(braked and cause == BRAKE[0]), cause=cause, **BALANCER)
        self._put("virtpoise_blackout", float(BLACKOUT[1] <= time < BLACKOUT[2]), window=BLACKOUT[0], **BALANCER)
        self._put("virtpoise_paused", 0, **BALANCER)
        self._put("virtpoise_build_info", 1, version="0.1.0", **BALANCER)
        self._put("virtpoise_start_timestamp_seconds", self.start - 10, **BALANCER)
        in_flight = [move for move in MOVES if move.start <= time < move.end]
        over = {host: load(host, time) >= THRESHOLD for host in HOSTS}
        for host in HOSTS:
            self._put("virtpoise_host_cpu_load_ratio", load(host, time), host=host, **BALANCER)
            moving = sum(host in (move.source, move.destination) for move in in_flight)
            if moving:
                self._put("virtpoise_host_migrations_in_flight", moving, host=host, **BALANCER)
            if over[host]:
                self._put("virtpoise_overload_consecutive", (time // STEP) % 3, host=host, **BALANCER)
            if host == DRAIN[0] and time >= DRAIN[1]:
                self._put("virtpoise_host_draining", 1.0, host=host, **BALANCER)
                self._put("virtpoise_host_state", 1.0, host=host, state="draining", **BALANCER)
        for name, threshold in (("cpu", THRESHOLD), ("memory", 0.9), ("network", 0.9)):
            self._put(f"virtpoise_{name}_threshold_ratio", threshold, **BALANCER)
        draining = time >= DRAIN[1]
        for state, number in (("active", len(HOSTS) - draining), ("draining", int(draining)), ("unknown", 0)):
            self._put("virtpoise_hosts", number, state=state, **BALANCER)
        if 720 <= time < 900:
            self._put("virtpoise_penalty_seconds", 910 - time, host="h1", **BALANCER)
        self._put("virtpoise_plan_unsolved", float(any(over.values()) and not in_flight), **BALANCER)
        self._put("virtpoise_plan_moves", len(in_flight), **BALANCER)
        self._put("virtpoise_snapshot_age_seconds", 3 + time % 7, **BALANCER)
        self._put("virtpoise_last_cycle_timestamp_seconds", self.start + time - 4, **BALANCER)
        self._put("virtpoise_migrations_in_flight", len(in_flight), **BALANCER)
        oldest = max((time - move.start for move in in_flight), default=0)
        self._put("virtpoise_migration_oldest_seconds", oldest, **BALANCER)
        self._put("virtpoise_domain_duplicates", 0, **BALANCER)
        self._put("virtpoise_domain_vanished", 0, **BALANCER)
        self._put("virtpoise_refusals", 2 if over["h1"] else 0, reason="destination_cpu", **BALANCER)
        self._put("virtpoise_refusals", 1 if time > 440 else 0, reason="resting", **BALANCER)
        self._grow("virtpoise_cycle_overruns_total", float(time == 600), **BALANCER)
        for result in ("idle", "recommended", "moved", "waiting", "failed"):
            came = "moved" if in_flight else "waiting" if any(over.values()) else "idle"
            self._grow("virtpoise_cycles_total", float(result == came), result=result, **BALANCER)
        self._histogram("cycle_duration_seconds", (0.05, 0.2, 1, 5), [0.08])
        ended = [move for move in MOVES if move.end == time]
        for move in MOVES:
            if time >= move.end:
                self._grow(
                    "virtpoise_migrations_total",
                    float(move.end == time),
                    source=move.source,
                    destination=move.destination,
                    result=move.result,
                    **BALANCER,
                )
        done = [move for move in ended if move.result == "done"]
        self._histogram("migration_duration_seconds", (5, 10, 20, 60), [float(m.end - m.start) for m in done])
        self._histogram("migration_downtime_seconds", (0.05, 0.1, 0.5, 1), [0.14 for _ in done])
        self._predictions()

    def _predictions(self) -> None:
        for i, role in enumerate(("source", "destination")):
            measured = []
            errors = self._errors[role]
            for move in MOVES:
                host = move.source if role == "source" else move.destination
                until = move.end + MEASURED_AFTER
                if move.start <= self._time < until:
                    labels = {"host": host, "role": role, "resource": "cpu", **BALANCER}
                    self._put("virtpoise_prediction_ratio", move.predicted[i], **labels)
                    self._put("virtpoise_prediction_lower_ratio", move.predicted[i] - 0.05, **labels)
                    self._put("virtpoise_prediction_upper_ratio", move.predicted[i] + 0.06, **labels)
                if self._time == until and move.result == "done":
                    error = abs(load(host, self._time) - move.predicted[i])
                    measured.append(error)
                    errors[move.source, move.destination].append(error)
            for (source, destination), seen in errors.items():
                pair = {"source": source, "destination": destination, "role": role, **BALANCER}
                self._put("virtpoise_prediction_pair_error_ratio_count", len(seen), **pair)
                self._put("virtpoise_prediction_pair_error_ratio_sum", sum(seen), **pair)
            self._histogram("prediction_error_ratio", (0.01, 0.02, 0.05, 0.1), measured, role=role)
            self._grow("virtpoise_predictions_measured_total", len(measured), role=role, **BALANCER)
            within = sum(error <= 0.05 for error in measured)
            self._grow("virtpoise_prediction_within_interval_total", within, role=role, **BALANCER)

    def _histogram(self, name: str, bounds: tuple[float, ...], seen: list[float], **labels: str) -> None:
        for bound in (*bounds, math.inf):
            le = "+Inf" if math.isinf(bound) else str(float(bound))
            fits = sum(value <= bound for value in seen)
            self._grow(f"virtpoise_{name}_bucket", fits, le=le, **labels, **BALANCER)
        self._grow(f"virtpoise_{name}_count", len(seen), **labels, **BALANCER)
        self._grow(f"virtpoise_{name}_sum", sum(seen), **labels, **BALANCER)
