"""The balancer's own metrics: gauges made from the published state at each scrape, and counters of events."""

from __future__ import annotations

import time
from collections import Counter as Tally
from collections.abc import Iterator
from typing import get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    Summary,
    disable_created_metrics,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from virtpoise_balancer import __version__
from virtpoise_balancer.analyse.brake import BrakeCause
from virtpoise_balancer.analyse.measure import DuePrediction, Measured
from virtpoise_balancer.analyse.others import ChangeKind, OthersChange
from virtpoise_balancer.knowledge.records import STRANGER, Action, PredictionRecord
from virtpoise_balancer.model import MigrationOutcome, Mode, Move, Result, Role, UnsettledKind
from virtpoise_balancer.web.gauges import by_host, of_hosts, single
from virtpoise_balancer.web.newest import Newest
from virtpoise_balancer.web.state import OnceOf, Published

_ERROR_BUCKETS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5)
_DURATION_BUCKETS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800)
_DOWNTIME_BUCKETS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1, 2, 5, 10)
_CYCLE_BUCKETS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
# When each counter began would be a series more of each, also of each pair of hosts. No rule or dashboard needs it.
disable_created_metrics()  # type: ignore[no-untyped-call]
# Of a thousand hosts there are a million pairs.
_MOST_PAIRS = 1000


def register_process(registry: CollectorRegistry) -> None:
    """The metrics of the process, which all groups share."""
    build = Gauge("virtpoise_build_info", "The balancer's version.", ["version"], registry=registry)
    build.labels(__version__).set(1)
    # process_start_time_seconds is read from /proc, and is wrong or missing in some containers.
    Gauge(
        "virtpoise_start_timestamp_seconds",
        "When this balancer started, in Unix time.",
        registry=registry,
    ).set(time.time())
    ProcessCollector(registry=registry)


class Metrics:
    """The metrics of a group of hosts, in their own registry.

    ``of_process``: with those of the process, for the only group.
    """

    def __init__(self, published: Published, *, of_process: bool = True) -> None:
        self.registry = CollectorRegistry()
        self.changes = 0  # counts what has happened, orders of strangers aside
        if of_process:
            register_process(self.registry)
        self._cycles = Counter("virtpoise_cycles_total", "Cycles by result.", ["result"], registry=self.registry)
        for result in ("idle", "recommended", "moved", "waiting", "failed"):
            self._cycles.labels(result)
        self._cycle_seconds = Histogram(
            "virtpoise_cycle_duration_seconds",
            "How long a cycle took, without its migrations.",
            buckets=_CYCLE_BUCKETS,
            registry=self.registry,
        )
        self._overruns = Counter(
            "virtpoise_cycle_overruns_total",
            "Cycles that were skipped because the previous one was still running.",
            registry=self.registry,
        )
        migrations = Counter(
            "virtpoise_migrations_total",
            "Migrations by source, destination and result: done, skipped or failed. Only of the newest "
            f"{_MOST_PAIRS:,} of these.",
            ["source", "destination", "result"],
            registry=self.registry,
        )
        self._migrations = Newest(migrations, _MOST_PAIRS)
        self._migration_seconds = Histogram(
            "virtpoise_migration_duration_seconds",
            "Duration of done migrations.",
            buckets=_DURATION_BUCKETS,
            registry=self.registry,
        )
        self._downtime_seconds = Histogram(
            "virtpoise_migration_downtime_seconds",
            "Downtime of domains in done migrations.",
            buckets=_DOWNTIME_BUCKETS,
            registry=self.registry,
        )
        self._errors = Histogram(
            "virtpoise_prediction_error_ratio",
            "Absolute difference between the measured and the predicted host CPU ratio after a migration.",
            ["role"],
            buckets=_ERROR_BUCKETS,
            registry=self.registry,
        )
        # Not a histogram: each pair would have many buckets, and increase() misses the first event of a new series.
        pair_errors = Summary(
            "virtpoise_prediction_pair_error_ratio",
            "The same difference, by pair of hosts between which a domain was migrated and by role. Only of the newest "
            f"{_MOST_PAIRS:,} of these.",
            ["source", "destination", "role"],
            registry=self.registry,
        )
        self._pair_errors = Newest(pair_errors, _MOST_PAIRS)
        self._measured = Counter(
            "virtpoise_predictions_measured_total",
            "Predictions that were compared with a measurement.",
            ["role"],
            registry=self.registry,
        )
        self._within = Counter(
            "virtpoise_prediction_within_interval_total",
            "Predictions whose measurement was within their interval.",
            ["role"],
            registry=self.registry,
        )
        self._others = Counter(
            "virtpoise_others_changes_total",
            "Domains that were migrated, started or stopped, and not by the balancer.",
            ["kind"],
            registry=self.registry,
        )
        for kind in ChangeKind:
            self._others.labels(kind.value)
        self._orders = Counter(
            "virtpoise_orders_total",
            "Orders over HTTP (page, API, virtpoise apply), by action and by whether they were followed or refused.",
            ["action", "result"],
            registry=self.registry,
        )
        for role in Role:
            for metric in (self._errors, self._measured, self._within):
                metric.labels(role)
        self.registry.register(_StateCollector(published))

    def cycle_ended(self, result: str, seconds: float) -> None:
        self.changes += 1
        self._cycles.labels(result).inc()
        self._cycle_seconds.observe(seconds)

    def cycle_overrun(self) -> None:
        self._overruns.inc()

    def migration_ended(self, move: Move, outcome: MigrationOutcome) -> None:
        self.changes += 1
        self._migrations.labels(move.source, move.destination, outcome.result.value).inc()
        if outcome.result is Result.DONE:
            if outcome.seconds is not None:
                self._migration_seconds.observe(outcome.seconds)
            if outcome.downtime_seconds is not None:
                self._downtime_seconds.observe(outcome.downtime_seconds)

    def prediction_measured(self, due: DuePrediction, measured: Measured) -> None:
        self.changes += 1
        if measured.ratio is None or measured.error is None:
            return
        self._errors.labels(due.role).observe(abs(measured.error))
        self._pair_errors.labels(due.source, due.destination, due.role).observe(abs(measured.error))
        self._measured.labels(due.role).inc()
        if due.lower <= measured.ratio <= due.upper:
            self._within.labels(due.role).inc()

    def others_changed(self, change: OthersChange) -> None:
        self._others.labels(change.kind.value).inc()

    def ordered(self, action: Action) -> None:
        if action.who == STRANGER:  # counted one by one in stranger_refused
            return
        self.changes += 1
        self._orders.labels(action.action, "followed" if action.accepted else "refused").inc()

    def stranger_refused(self, action: str) -> None:
        self._orders.labels(action, "refused").inc()


class _StateCollector(Collector):
    def __init__(self, published: Published) -> None:
        self._published = published
        self._of_state = OnceOf(lambda state: tuple(of_hosts(state, published.statuses(state))))

    def describe(self) -> Iterator[Metric]:
        return iter(())

    def collect(self) -> Iterator[Metric]:
        state = self._published.state
        yield single("virtpoise_leader", "1 on the active balancer, 0 on standby.", float(state.leader))
        mode = GaugeMetricFamily("virtpoise_mode", "1 for the mode in force.", labels=["mode"])
        for name in get_args(Mode):
            mode.add_metric([name], float(name == self._published.mode))
        yield mode
        paused = self._published.overrides().paused is not None
        yield single("virtpoise_paused", "1 while the balancer is paused by an order.", paused)
        brake = GaugeMetricFamily(
            "virtpoise_brake",
            "1 while the brake is on, so that moves are only recommended, by what pulled it.",
            labels=["cause"],
        )
        on = self._published.brake
        for cause in BrakeCause:
            brake.add_metric([cause.value], float(on is not None and on.cause is cause))
        yield brake
        blackout = GaugeMetricFamily(
            "virtpoise_blackout",
            "1 while the window (policy.windows) keeps mode automatic from beginning migrations.",
            labels=["window"],
        )
        opened = state.blackout.windows if state.blackout else ()
        for window in state.policy.windows:
            blackout.add_metric([window.name], float(window.name in opened))
        yield blackout
        yield from self._in_flight()
        if state.cycle_at is not None:
            yield single(
                "virtpoise_last_cycle_timestamp_seconds", "When the newest cycle ran, in Unix time.", state.cycle_at
            )
        if state.figures_at is not None:
            yield single(
                "virtpoise_snapshot_age_seconds",
                "Age of the newest sample of any host that was ever seen. It grows while cycles fail.",
                max(self._published.clock.now() - state.figures_at, 0.0),
            )
        yield self._unaccounted()
        yield self._draining()
        yield self._store()
        yield from self._of_state(state)
        yield from self._plan()
        yield from _predictions(state.predictions)

    def _in_flight(self) -> Iterator[Metric]:
        """The migrations under way, in total and by host: each fills the uplinks of its two hosts."""
        flights, now = self._published.in_flight(), self._published.clock.now()
        yield single("virtpoise_migrations_in_flight", "Running migrations.", len(flights))
        yield single(
            "virtpoise_migration_oldest_seconds",
            "How long the oldest running migration has taken so far; 0 without one.",
            max((flight.seconds(now) for flight in flights), default=0.0),
        )
        ends = Tally(host for flight in flights for host in (flight.move.source, flight.move.destination))
        family = by_host(
            "virtpoise_host_migrations_in_flight", "Running migrations from the host or to it; no series without one."
        )
        for name, number in sorted(ends.items()):
            family.add_metric([name], number)
        yield family

    def _store(self) -> Metric:
        return single(
            "virtpoise_store_broken_rows",
            "Rows of the store that cannot be read, so that cycles leave them out. The log names them.",
            len(self._published.state.broken),
        )

    def _unaccounted(self) -> Metric:
        family = GaugeMetricFamily(
            "virtpoise_domains_unaccounted",
            "Domains that are not known to run once, by their hosts' own libvirt: active twice, nowhere after a migration, "
            "waiting where they have arrived and cannot be started, left between two hosts, or unknown. "
            "Nothing is moved from or to their hosts.",
            labels=["kind"],
        )
        kinds = Tally(one.kind for one in self._published.state.unsettled)
        for kind in (kind for kind in UnsettledKind if kind is not UnsettledKind.MIGRATING):
            family.add_metric([kind.value], kinds[kind])
        return family

    def _draining(self) -> Metric:
        """Which hosts drain, also those that are not seen: a drained host may be switched off."""
        family = by_host(
            "virtpoise_host_draining",
            "1 from drain to undrain, even while the host is not seen; 0 after it; no series without an order.",
        )
        for name, order in sorted(self._published.state.drains.items()):
            family.add_metric([name], float(order.draining))
        return family

    def _plan(self) -> Iterator[Metric]:
        plan = self._published.state.plan
        if plan is None:
            return
        yield single(
            "virtpoise_plan_unsolved", "1 while there is a problem that the plan does not solve.", not plan.solved
        )
        yield single("virtpoise_plan_moves", "Moves in the newest plan.", len(plan.moves))
        refusals = GaugeMetricFamily(
            "virtpoise_refusals", "Refusals of hosts and domains in the newest plan, by reason.", labels=["reason"]
        )
        for reason, number in sorted(Tally(refusal.reason.value for refusal in plan.refusals).items()):
            refusals.add_metric([reason], number)
        yield refusals


def _predictions(records: tuple[PredictionRecord, ...]) -> Iterator[Metric]:
    """The predictions that are not measured yet; of several for one host only the newest."""
    newest = {(record.host, record.role, record.resource): record for record in records}
    families = {
        field: GaugeMetricFamily(name, text, labels=["host", "role", "resource"])
        for field, name, text in (
            ("predicted", "virtpoise_prediction_ratio", "Predicted use of the host after the newest migration."),
            ("lower", "virtpoise_prediction_lower_ratio", "Lower end of the prediction's interval."),
            ("upper", "virtpoise_prediction_upper_ratio", "Upper end of the prediction's interval."),
        )
    }
    for key, record in sorted(newest.items()):
        for field, family in families.items():
            family.add_metric(list(key), getattr(record, field))
    yield from families.values()
