"""The daemon: a cycle at every step of the clock, signals, reload, systemd. Never dies of a bad cycle and never hides one."""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections.abc import Iterator, Set
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

import structlog
from apscheduler.events import EVENT_JOB_MAX_INSTANCES, EVENT_JOB_MISSED, JobEvent
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.interval import IntervalTrigger

from virtpoise_balancer.analyse.silence import with_silence
from virtpoise_balancer.config import WHICH_HOSTS, read_config
from virtpoise_balancer.control.cycle import CycleResult, Report
from virtpoise_balancer.control.orders import Orders
from virtpoise_balancer.errors import BadInput, ClockError, Refused, VirtpoiseError
from virtpoise_balancer.execute.executor import RecommendingExecutor
from virtpoise_balancer.knowledge.steering import Action
from virtpoise_balancer.model import HostState, Move, Outcome, Plan, Result, Snapshot, UnknownKind
from virtpoise_balancer.monitor.targets import RefusedTargets
from virtpoise_balancer.plan.subset import Choice
from virtpoise_balancer.service import wiring
from virtpoise_balancer.service.changes import Changes
from virtpoise_balancer.service.systemd import notify
from virtpoise_balancer.tokens import read_tokens
from virtpoise_balancer.web.app import make_app
from virtpoise_balancer.web.context import Context
from virtpoise_balancer.web.guard import Gate
from virtpoise_balancer.web.metrics import Metrics
from virtpoise_balancer.web.server import WebServer
from virtpoise_balancer.web.state import Board, State, newest_figures

log = structlog.get_logger()

_JOB = "cycle"
_FORGET_EVERY = 1000  # cycles
# Read only when the daemon starts: what listens and what is open cannot be changed under way.
_FIXED = ("state", "web", "log")
# A cycle waits for Prometheus at most; an order that came meanwhile waits for the cycle.
_ORDER_SECONDS = 30.0


class Daemon:
    """One balancer. ``run()`` returns when it was told to stop and all that ran has ended.

    BadInput when nothing that the configuration names answers; then nothing was opened or written.
    """

    def __init__(self, config_path: Path) -> None:
        self._path = config_path
        self._config = read_config(config_path)
        if self._config.web.token_file is not None:
            read_tokens(self._config.web.token_file)  # a wrong file is told now, not to the first who needs it
        self._reach = wiring.make_reach(lambda: self._config)
        self._check_reachable()
        self._stop = threading.Event()
        self._reload = threading.Event()
        self._cycles = 0
        self._refused = RefusedTargets()
        self._board = Board(self._first_state(leader=False))
        self._metrics = Metrics(self._board)
        self._store = wiring.make_store(self._config)
        self._leadership = wiring.make_leadership(self._config)
        self._executor = wiring.make_executor(self._config, self._store, self._migration_ended, self._reach)
        self._board.in_flight = lambda: self._executor.in_flight
        self._board.steering = self._store.steering
        self._cycle = wiring.make_cycle(self._config, self._store, self._executor, self._reach)
        self._changes = Changes()
        self._turning = threading.Lock()  # one at a time decides: a cycle, or a person who applies a plan
        orders = Orders(
            store=self._store,
            look=self._look,
            mode=lambda: self._config.mode,
            may_act=lambda: self._config.libvirt.names_hosts,
            carry_out=self._carry_out_by_order,
            told=self._ordered,
        )
        context = Context(
            board=self._board,
            metrics=self._metrics,
            store=self._store,
            orders=orders,
            config=lambda: self._config,
            reload=self._reload.set,
            gate=Gate(self._config.web),
            stopping=lambda: self._web.stopping,
        )
        self._web = WebServer(make_app(context), self._config.web)
        self._scheduler = BackgroundScheduler(timezone=UTC)

    def run(self) -> None:
        """Serve, and run cycles until SIGTERM or SIGINT."""
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
            while not self._stop.wait(self._config.interval_seconds):
                self._follow_clock()
            self._end()

    def _end(self) -> None:
        notify("STOPPING=1")
        if self._executor.in_flight:
            log.info("stopping: waits for the migration under way", seconds=self._config.migration.stop_grace_seconds)
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
        """A cycle at whole multiples of the interval, so that a balancer started anew looks at the same moments."""
        step = self._config.interval_seconds
        first = datetime.fromtimestamp(math.ceil(time.time() / step) * step, UTC)
        self._scheduler.add_job(
            self._turn,
            IntervalTrigger(seconds=step, start_date=first),
            id=_JOB,
            max_instances=1,
            coalesce=True,
            misfire_grace_time=max(1, int(step)),
            replace_existing=True,
        )

    def _follow_clock(self) -> None:
        """Begin the schedule anew when the clock was set back: the next cycle lies by the clock, and would wait for as long."""
        job = self._scheduler.get_job(_JOB)
        if job is None or job.next_run_time is None:
            return
        wait = job.next_run_time.timestamp() - time.time()
        if wait > self._config.interval_seconds:
            log.warning("this machine's clock was set back, cycles go on", seconds=round(wait, 1))
            self._schedule()

    def _missed(self, _event: JobEvent) -> None:
        self._metrics.cycle_overrun()
        log.warning(
            "a cycle was left out: the one before had not ended", interval_seconds=self._config.interval_seconds
        )

    def _turn(self) -> None:
        began, now = time.monotonic(), time.time()
        try:
            with self._turning:
                if self._reload.is_set():
                    self._reload.clear()
                    self._read_again()
                now = time.time()  # the lock may have been held for long
                report = self._one(now)
        except Exception as error:
            log.exception("a cycle failed in an unforeseen way")
            report = Report(result=CycleResult.FAILED, sentence=f"unforeseen: {type(error).__name__}: {error}")
        try:
            self._tell(report, now, time.monotonic() - began)
        except Exception:
            log.exception("what a cycle did could not be written down")
        self._board.cycle_ended = time.monotonic()
        notify("WATCHDOG=1")

    def _one(self, now: float) -> Report:
        if not self._lead():
            return Report(
                result=CycleResult.WAITING, sentence=f"another balancer acts and holds {self._leadership.path}: waits"
            )
        steering = self._store.steering()
        automatic = steering.mode_over(self._config.mode) == "automatic"
        may_act = self._config.libvirt.names_hosts
        acts = steering.paused is None and automatic and may_act
        cycle = self._cycle if acts else replace(self._cycle, executor=RecommendingExecutor(self._executor))
        report = cycle.run(now, time.time)
        if automatic and not may_act:  # the mode was set by an order, before the configuration lost what it needs
            return replace(report, sentence=f"only recommends, libvirt.pattern: {WHICH_HOSTS}; {report.sentence}")
        if steering.paused is None:
            return report
        return replace(report, sentence=f"paused by {steering.paused.who}: {report.sentence}")

    def _look(self) -> Snapshot:
        seen = wiring.make_observer(self._config).observe(time.time())  # its own: cycles use theirs meanwhile
        return with_silence(seen.snapshot, self._reach.silence(), acts=self._board.mode == "automatic")

    def _carry_out_by_order(self, wanted: Set[Choice]) -> Plan:
        if not self._turning.acquire(timeout=_ORDER_SECONDS):
            raise Refused("a cycle is taking long: try again")
        try:
            if not self._leadership.held:
                raise Refused("another balancer acts: ask that one")
            return self._cycle.apply(wanted, time.time(), time.time)
        finally:
            self._turning.release()

    def _lead(self) -> bool:
        """Whether this balancer acts; on coming to lead it takes on what an earlier one left unfinished."""
        if self._leadership.held:
            return True
        if not self._leadership.take():
            return False
        begun, not_begun = self._store.unfinished()
        for migration_id in not_begun:
            self._store.end(
                migration_id, Outcome(result=Result.SKIPPED, why="the balancer ended before the migration began")
            )
        if begun:
            log.warning("takes on migrations that an earlier balancer left", domains=[move.domain for _, move in begun])
            self._executor.adopt(begun)
        return True

    # --- what is told -------------------------------------------------------------------------------------------------

    def _tell(self, report: Report, now: float, seconds: float) -> None:
        level = log.error if report.result is CycleResult.FAILED else log.info
        level(report.sentence, result=report.result.value, seconds=round(seconds, 3))
        for warning in report.observation.warnings if report.observation else ():
            log.warning("Prometheus warns", warning=warning)
        self._ask_hosts(report)
        self._changes.report(report.observation.snapshot if report.observation else None, self._reach.silence().silent)
        if report.observation is not None:
            self._log_refused(report.observation.refused)
        for due, measured in report.measured:
            self._metrics.prediction_measured(due, self._store.ends(due.id), measured)
            log.info(
                "a prediction was measured",
                host=due.host,
                role=due.role,
                predicted=round(due.predicted, 3),
                measured=None if measured.ratio is None else round(measured.ratio, 3),
                verdict=measured.verdict,
            )
        self._metrics.cycle_ended(report.result.value, seconds)
        self._board.state = replace(
            self._first_state(leader=self._leadership.held),
            cycle_at=now,
            figures_at=newest_figures(self._board.state.figures_at, report.observation, now)
            if self._leadership.held
            else None,
            result=report.result.value,
            sentence=report.sentence,
            observation=report.observation,
            plan=report.plan,
            standings=report.standings,
            predictions=self._store.open_predictions(),
            lost=report.lost,
            heard=self._reach.heard(),
        )
        self._remember(report, now, seconds)

    def _ask_hosts(self, report: Report) -> None:
        """Ask the libvirt daemons what the next cycle should know, beside the cycles; not those that do not answer their exporter."""
        if report.observation is None:
            return
        hosts = report.observation.snapshot.hosts
        draining = {name for name, standing in report.standings.items() if standing.draining}
        reachable = [
            host.name for host in hosts if not (unknown := host.why_unknown) or unknown.kind is UnknownKind.SILENT
        ]
        self._reach.forget_others({host.name for host in hosts} | draining)
        self._reach.keep_up(reachable, closely=draining)

    def _log_refused(self, refused: RefusedTargets) -> None:
        """One line whenever the set of refused targets changes."""
        if refused == self._refused:
            return
        self._refused = refused
        if refused.counts:
            log.warning("targets are refused: they are not taken for hosts", targets=str(refused))
        else:
            log.info("no target is refused any more")

    def _remember(self, report: Report, now: float, seconds: float) -> None:
        self._store.record_cycle(
            started=now,
            seconds=seconds,
            mode=self._board.mode,
            result=report.result.value,
            sentence=report.sentence,
        )
        self._cycles += 1
        if self._cycles % _FORGET_EVERY == 0:
            self._store.forget(now)

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
        """Take the file's new content, or keep what is if it cannot be taken."""
        notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            config = read_config(self._path)
            self._web.renew_certificate()
        except BadInput as error:
            log.warning("the configuration is kept as it was", error="; ".join(str(error).splitlines()))
        else:
            fixed = [name for name in _FIXED if getattr(config, name) != getattr(self._config, name)]
            if fixed:
                log.warning("these sections take effect only after a restart", sections=fixed)
            config = config.model_copy(update={name: getattr(self._config, name) for name in _FIXED})
            rescheduled = config.interval_seconds != self._config.interval_seconds
            self._config = config
            self._executor.migrator = wiring.make_migrator(config)
            self._cycle = wiring.make_cycle(config, self._store, self._executor, self._reach)
            if rescheduled:
                self._schedule()
            log.info("the configuration was read again")
        notify("READY=1")

    # --- at the start -------------------------------------------------------------------------------------------------

    def _check_reachable(self) -> None:
        """A wrong address is told at once, not by a loop that fails for ever: BadInput.

        Without libvirt there is still something to recommend, so then the hosts are asked beside the cycles.
        """
        try:
            seen = wiring.make_observer(self._config).observe(time.time())
        except ClockError as error:  # at boot it may be wrong for a while: each cycle looks again
            log.warning("nothing can be done yet", why=str(error))
            return
        except VirtpoiseError as error:
            raise BadInput(f"prometheus.url: {error}") from None
        hosts = [host.name for host in seen.snapshot.hosts if host.state is not HostState.UNKNOWN]
        if self._config.mode != "automatic":
            return
        self._reach.ask(hosts)
        silent = self._reach.silence().silent
        if silent and len(silent) == len(hosts):
            raise BadInput(f"libvirt.uri: no host answers; {silent[hosts[0]]}")
