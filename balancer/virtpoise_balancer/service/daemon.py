"""The daemon: a cycle at each whole step of the clock, signals, reload, systemd. Survives a failed cycle and reports it."""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Set
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

import structlog
from apscheduler.events import EVENT_JOB_MAX_INSTANCES, EVENT_JOB_MISSED, JobEvent
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.interval import IntervalTrigger

from virtpoise_balancer.clock import SYSTEM, Clock
from virtpoise_balancer.config import Config, check_secrets, read_config
from virtpoise_balancer.control.cycle import Cycle, Report
from virtpoise_balancer.control.decide import CycleResult
from virtpoise_balancer.control.orders import Orders
from virtpoise_balancer.errors import BadInput, Refused, VirtpoiseError
from virtpoise_balancer.execute.executor import LibvirtExecutor
from virtpoise_balancer.knowledge.leader import Leadership
from virtpoise_balancer.knowledge.records import Action
from virtpoise_balancer.knowledge.store import Store
from virtpoise_balancer.model import HostState, Move, Outcome, Plan, Result
from virtpoise_balancer.monitor.targets import RefusedTargets
from virtpoise_balancer.plan.subset import Choice
from virtpoise_balancer.service import wiring
from virtpoise_balancer.service.systemd import notify
from virtpoise_balancer.web.app import make_app
from virtpoise_balancer.web.context import Context
from virtpoise_balancer.web.guard import Gate
from virtpoise_balancer.web.metrics import Metrics
from virtpoise_balancer.web.server import WebServer
from virtpoise_balancer.web.state import Published, State, newest_figures

log = structlog.get_logger()

_JOB = "cycle"
_FORGET_EVERY = 360  # cycles
# Read only when the daemon starts: an open store and a listening socket are not changed while it runs.
_FIXED = ("state", "web", "log")
# How long an order waits for a cycle that is being run.
_ORDER_SECONDS = 30.0


class Daemon:
    """One balancer, of the configuration in a file. Making one does nothing; ``run()`` reads the file and starts."""

    _config: Config
    _published: Published
    _metrics: Metrics
    _store: Store
    _leadership: Leadership
    _executor: LibvirtExecutor
    _cycle: Cycle
    _context: Context
    _web: WebServer

    def __init__(self, config_path: Path, clock: Clock = SYSTEM) -> None:
        self._path = config_path
        self._clock = clock
        self._stop = threading.Event()
        self._reload = threading.Event()
        self._turning = threading.Lock()  # one at a time decides: a cycle, or a person who applies a plan
        self._scheduler = BackgroundScheduler(timezone=UTC)
        self._leads = False
        self._cycles = 0
        self._refused = RefusedTargets()  # as it was logged last
        self._broken: set[str] = set()  # what was already logged about rows of the store that cannot be read

    def run(self) -> None:
        """Serve, and run cycles until SIGTERM or SIGINT; returns when everything that ran has ended.

        BadInput when the configuration cannot be used or nothing that it names answers; then nothing was written.
        """
        self._open()
        with self._signals():
            self._web.start()
            self._schedule()
            self._scheduler.add_listener(self._missed, EVENT_JOB_MAX_INSTANCES | EVENT_JOB_MISSED)
            self._scheduler.start()
            log.info(
                "virtpoise runs",
                mode=self._config.mode,
                strategy=self._config.policy.strategy,
                interval_seconds=self._config.interval_seconds,
                listen=self._config.web.listen_address,
            )
            notify("READY=1")
            self._stop.wait()
            self._end()

    def stop(self) -> None:
        """As SIGTERM does."""
        self._stop.set()

    def _open(self) -> None:
        self._config = read_config(self._path)
        check_secrets(self._config)  # a wrong file is reported now, not to the first who needs it
        self._check_reachable()
        self._published = Published(self._first_state(leader=False))
        self._metrics = Metrics(self._published)
        self._leadership = wiring.make_leadership(self._config)
        self._store = wiring.make_store(self._config, upgrade=self._leadership.take())
        self._executor = wiring.make_executor(self._config, self._store, self._migration_ended)
        self._cycle = wiring.make_cycle(self._config, self._store, self._executor, self._clock)
        self._published.in_flight = lambda: self._executor.in_flight
        self._published.overrides = self._store.overrides
        self._context = self._make_context()
        self._web = WebServer(make_app(self._context), self._config.web)

    def _make_context(self) -> Context:
        orders = Orders(
            store=self._store,
            look=lambda: self._cycle.observer.observe(self._clock.now()).snapshot,
            mode=lambda: self._config.mode,
            may_act=lambda: self._config.libvirt.names_hosts,
            carry_out=self._carry_out_by_order,
            on_order=self._ordered,
            clock=self._clock,
        )
        return Context(
            published=self._published,
            metrics=self._metrics,
            store=self._store,
            orders=orders,
            config=lambda: self._config,
            reload=self._reload.set,
            gate=Gate(self._config.web),
            stopping=lambda: self._web.stopping,
        )

    def _end(self) -> None:
        notify("STOPPING=1")
        if self._executor.in_flight:
            log.info("stopping: waiting for migrations under way", seconds=self._config.migration.stop_grace_seconds)
        self._scheduler.shutdown(wait=True)
        self._executor.close()
        self._close()
        log.info("virtpoise has stopped")

    def _close(self) -> None:
        self._web.stop()
        self._store.close()
        self._leadership.release()

    # --- the schedule -------------------------------------------------------------------------------------------------

    def _schedule(self) -> None:
        """A cycle at whole multiples of the interval, so that a restarted balancer looks at the same moments."""
        step = self._config.interval_seconds
        first = datetime.fromtimestamp(math.ceil(self._clock.now() / step) * step, UTC)
        self._scheduler.add_job(
            self._turn,
            IntervalTrigger(seconds=step, start_date=first),
            id=_JOB,
            max_instances=1,
            coalesce=True,
            misfire_grace_time=max(1, int(step)),
            replace_existing=True,
        )

    def _missed(self, _event: JobEvent) -> None:
        self._metrics.cycle_overrun()
        log.warning(
            "a cycle was left out: the one before it was still running", interval_seconds=self._config.interval_seconds
        )

    def _turn(self) -> None:
        began, now = self._clock.monotonic(), self._clock.now()
        try:
            with self._turning:
                if self._reload.is_set():
                    self._reload.clear()
                    self._read_again()
                report = self._one(now)
        except Exception as error:
            log.exception("a cycle failed for a reason that the program does not expect")
            report = self._failed(error, now)
        try:
            self._publish(report, now, self._clock.monotonic() - began)
        except Exception:
            log.exception("the outcome of a cycle could not be published")
        notify("WATCHDOG=1")

    def _one(self, now: float) -> Report:
        if not self._lead():
            return Report(
                result=CycleResult.WAITING,
                sentence=f"another balancer acts and holds {self._leadership.path}; waiting for it to end",
            )
        return self._cycle.run(now)

    def _failed(self, error: Exception, now: float) -> Report:
        sentence = f"unforeseen: {type(error).__name__}: {error}"
        if self._leads:
            with contextlib.suppress(Exception):  # the store may be what failed
                return self._cycle.failed(sentence, now)
        return Report(result=CycleResult.FAILED, sentence=sentence)

    def _carry_out_by_order(self, wanted: Set[Choice]) -> Plan:
        if not self._turning.acquire(timeout=_ORDER_SECONDS):
            raise Refused("a cycle is taking long: try again")
        try:
            if not self._leads:
                raise Refused("another balancer acts: ask that one")
            return self._cycle.apply(wanted, self._clock.now())
        finally:
            self._turning.release()

    def _lead(self) -> bool:
        """Whether this balancer acts. When it begins to, it takes over what an earlier one left unfinished."""
        if self._leads:
            return True
        if not self._leadership.take():
            return False
        self._leads = True
        begun, not_begun = self._store.unfinished()
        for migration_id in not_begun:
            self._store.end(
                migration_id, Outcome(result=Result.SKIPPED, why="the balancer ended before the migration began")
            )
        if begun:
            log.warning(
                "taking over migrations that an earlier balancer began", domains=[move.domain for _, move in begun]
            )
            self._executor.adopt(begun)
        return True

    # --- what is reported ---------------------------------------------------------------------------------------------

    def _publish(self, report: Report, now: float, seconds: float) -> None:
        """Log the outcome of a cycle, and show it on the page and in the metrics."""
        level = log.error if report.result is CycleResult.FAILED else log.info
        level(report.sentence, result=report.result.value, seconds=round(seconds, 3))
        for warning in report.observation.warnings if report.observation else ():
            log.warning("Prometheus warns", warning=warning)
        if report.observation is not None:
            self._log_refused(report.observation.refused)
        for row in report.broken:
            if row not in self._broken:
                self._broken.add(row)
                log.error("a row of the store cannot be read and is left out", row=row)
        for due, measured in report.measured:
            self._metrics.prediction_measured(due, measured)
            log.info(
                "a prediction was measured",
                host=due.host,
                role=due.role,
                predicted=round(due.predicted, 3),
                measured=None if measured.ratio is None else round(measured.ratio, 3),
                verdict=measured.verdict,
            )
        self._metrics.cycle_ended(report.result.value, seconds)
        self._published.state = replace(
            self._first_state(leader=self._leads),
            cycle_at=now,
            figures_at=newest_figures(self._published.state.figures_at, report.observation, now)
            if self._leads
            else None,
            result=report.result.value,
            sentence=report.sentence,
            observation=report.observation,
            plan=report.plan,
            backoffs=report.backoffs,
            drains=report.drains,
            predictions=report.predictions,
            lost=report.lost,
            broken=report.broken,
        )
        self._context.strangers.settle()
        self._cycles += 1
        if self._leads and self._cycles % _FORGET_EVERY == 0:
            self._store.forget(now, keep_days=self._config.state.keep_days, keep_bytes=self._config.state.keep_bytes)

    def _log_refused(self, refused: RefusedTargets) -> None:
        """One line whenever the set of refused targets changes."""
        if refused == self._refused:
            return
        self._refused = refused
        if refused.counts:
            log.warning("targets are refused: they are not taken for hosts", targets=str(refused))
        else:
            log.info("no target is refused any more")

    def _migration_ended(self, move: Move, outcome: Outcome) -> None:
        self._metrics.migration_ended(move, outcome)
        figures = {
            "domain": move.domain,
            "source": move.source,
            "destination": move.destination,
            "seconds": None if outcome.seconds is None else round(outcome.seconds, 2),
            "downtime_seconds": outcome.downtime_seconds,
        }
        if outcome.result is Result.DONE:
            log.info("a domain was migrated", **figures)
        else:
            log.warning(f"a migration was {outcome.result.value}", why=outcome.why, **figures)

    def _ordered(self, action: Action) -> None:
        self._metrics.ordered(action)
        level = log.info if action.accepted else log.warning
        level(
            "an order was followed" if action.accepted else "an order was refused",
            who=action.who,
            origin=action.origin,
            action=action.action,
            target=action.target,
            answer=action.answer,
        )

    def _first_state(self, *, leader: bool) -> State:
        return State(
            mode=self._config.mode,
            leader=leader,
            policy=self._config.policy,
            interval_seconds=self._config.interval_seconds,
        )

    # --- signals and reload -------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        def stop(_signal: int, _frame: FrameType | None) -> None:
            self._stop.set()

        def reload(_signal: int, _frame: FrameType | None) -> None:
            self._reload.set()

        before = {
            number: signal.signal(number, handler)
            for number, handler in ((signal.SIGTERM, stop), (signal.SIGINT, stop), (signal.SIGHUP, reload))
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _read_again(self) -> None:
        """Use the file's new content. Keep the present configuration if the file cannot be used."""
        notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            config = read_config(self._path)
            self._web.renew_certificate()
        except BadInput as error:
            log.warning(
                "the configuration file cannot be used; the present configuration stays",
                error="; ".join(str(error).splitlines()),
            )
        else:
            fixed = [name for name in _FIXED if getattr(config, name) != getattr(self._config, name)]
            if fixed:
                log.warning("these sections take effect only after a restart", sections=fixed)
            config = config.model_copy(update={name: getattr(self._config, name) for name in _FIXED})
            rescheduled = config.interval_seconds != self._config.interval_seconds
            self._config = config
            self._executor.migrator = wiring.make_migrator(config)
            self._cycle = wiring.make_cycle(config, self._store, self._executor, self._clock)
            if rescheduled:
                self._schedule()
            log.info("the configuration was read again")
        notify("READY=1")

    # --- at the start -------------------------------------------------------------------------------------------------

    def _check_reachable(self) -> None:
        """Report a wrong address at the start, as BadInput, instead of failing in every cycle.

        In mode recommend the hosts are asked in the background: recommendations do not need libvirt.
        """
        try:
            seen = wiring.make_observer(self._config).observe(self._clock.now())
        except VirtpoiseError as error:
            raise BadInput(f"prometheus.url: {error}") from None
        hosts = [host.name for host in seen.snapshot.hosts if host.state is not HostState.UNKNOWN]
        migrator = wiring.make_migrator(self._config)
        if self._config.mode != "automatic":
            ask = threading.Thread(target=lambda: _warn_of(migrator.unreachable(hosts)), name="ask hosts", daemon=True)
            ask.start()
            return
        deaf = migrator.unreachable(hosts)
        if deaf and len(deaf) == len(hosts):
            raise BadInput(f"libvirt.uri: no host answers; {deaf[hosts[0]]}")
        _warn_of(deaf)


def _warn_of(deaf: Mapping[str, str]) -> None:
    for host, why in deaf.items():
        log.warning("a host's libvirt does not answer", host=host, why=why)
