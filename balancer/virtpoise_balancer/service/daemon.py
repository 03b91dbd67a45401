"""The daemon: a cycle at each whole step of the clock, signals, reload, systemd.

Survives a failed cycle and reports it.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import structlog
from apscheduler.events import EVENT_JOB_MAX_INSTANCES, EVENT_JOB_MISSED, JobEvent
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.interval import IntervalTrigger

from virtpoise_balancer.analyse.silence import with_silence
from virtpoise_balancer.clock import SYSTEM, Clock
from virtpoise_balancer.config import Config, check_secrets, read_config
from virtpoise_balancer.control.orders import Orders
from virtpoise_balancer.errors import BadInput, ClockError, StoreError, VirtpoiseError
from virtpoise_balancer.execute.accounts import LibvirtAccounts
from virtpoise_balancer.execute.executor import LibvirtExecutor
from virtpoise_balancer.execute.reach import Reach
from virtpoise_balancer.execute.workers import Workers
from virtpoise_balancer.knowledge.records import Action, Overrides
from virtpoise_balancer.knowledge.store import Store
from virtpoise_balancer.model import HostState, MigrationOutcome, Move, Snapshot
from virtpoise_balancer.plan.stream import limits_of
from virtpoise_balancer.service import reports, signals, wiring
from virtpoise_balancer.service.leading import Leadership
from virtpoise_balancer.service.systemd import notify
from virtpoise_balancer.service.turns import Turns, first_state
from virtpoise_balancer.web.app import make_app
from virtpoise_balancer.web.context import Context
from virtpoise_balancer.web.guard import Gate
from virtpoise_balancer.web.metrics import Metrics
from virtpoise_balancer.web.server import WebServer
from virtpoise_balancer.web.state import Published

log = structlog.get_logger()

_JOB = "cycle"
# Read only when the daemon starts: an open store and a listening socket are not changed while it runs.
_FIXED = ("state", "web", "log")
# What plans follow from. Where it changes, moves that have not begun are given up.
_DECIDES = ("prometheus", "libvirt", "mode", "policy")


class Daemon:
    """One balancer, of the configuration in a file. Making one does nothing; ``run()`` reads the file and starts."""

    _config: Config
    _published: Published
    _metrics: Metrics
    _store: Store
    _leadership: Leadership
    _executor: LibvirtExecutor
    _accounts: LibvirtAccounts
    _turns: Turns
    _context: Context
    _web: WebServer
    _workers: Workers
    _reach: Reach

    def __init__(self, config_path: Path, clock: Clock = SYSTEM) -> None:
        self._path = config_path
        self._clock = clock
        self._stop = threading.Event()
        self._reload = threading.Event()
        self._scheduler = BackgroundScheduler(timezone=UTC)
        self._known_overrides = Overrides()
        self._broken: set[str] = set()  # what was already logged about rows of the store that cannot be read

    def run(self) -> None:
        """Serve, and run cycles until SIGTERM or SIGINT; returns when everything that ran has ended.

        BadInput when the configuration cannot be used or nothing that it names answers; then nothing was written.
        """
        with contextlib.closing(Workers()) as self._workers, signals.handled(self._stop, self._reload):
            self._open()
            self._web.start()
            self._schedule()
            self._scheduler.add_listener(self._missed, EVENT_JOB_MAX_INSTANCES | EVENT_JOB_MISSED)
            self._scheduler.start()
            try:
                log.info(
                    "virtpoise runs",
                    mode=self._config.mode,
                    strategy=self._config.policy.strategy,
                    interval_seconds=self._config.interval_seconds,
                    listen=self._config.web.listen_address,
                )
                notify("READY=1")
                while not self._stop.wait(self._config.interval_seconds / 2):
                    self._follow_clock()
                    self._leadership.keep()
            finally:  # whatever ends it: the interpreter must not end with a move under way
                self._end()

    def stop(self) -> None:
        """As SIGTERM does."""
        self._stop.set()

    def _open(self) -> None:
        self._config = read_config(self._path)
        check_secrets(self._config)  # a wrong file is reported now, not to the first who needs it
        self._reach = wiring.make_reach(lambda: self._config, self._workers)
        self._check_reachable()
        self._published = Published(first_state(self._config))
        self._metrics = Metrics(self._published)
        self._leadership = Leadership(wiring.make_lock(self._config), self._config.interval_seconds, self._clock)
        self._store = wiring.make_store(self._config, self._left_out, upgrade=self._leadership.take_lock())
        self._accounts = wiring.make_accounts(
            lambda: self._config, self._workers, self._store, self._clock, self._migration_ended
        )
        self._executor = wiring.make_executor(self._config, self._workers, self._accounts, self._reach)
        self._turns = Turns(
            config=self._config,
            cycle=wiring.make_cycle(
                self._config, self._store, self._executor, self._accounts, self._clock, self._reach
            ),
            leadership=self._leadership,
            store=self._store,
            reach=self._reach,
            metrics=self._metrics,
            published=self._published,
            clock=self._clock,
            settle=lambda: self._context.strangers.settle(),
            go_on=self._executor.go_on,
            left_out=self._left_out,
        )
        self._published.in_flight = lambda: self._executor.in_flight
        self._published.overrides = self._overrides
        self._context = self._make_context()
        self._web = WebServer(make_app(self._context), self._config.web)

    def _make_context(self) -> Context:
        orders = Orders(
            store=self._store,
            look=self._look,
            mode=lambda: self._config.mode,
            policy=lambda: self._config.policy,
            only_recommends=lambda: self._config.libvirt.only_recommends,
            carry_out=lambda wanted: self._turns.apply(wanted),
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
        self._executor.close(leads=self._leadership.leads)
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

    def _follow_clock(self) -> None:
        """Restart the schedule when the clock was set back.

        The next cycle would else wait until the clock reaches its time.
        """
        job = self._scheduler.get_job(_JOB)
        if job is None or job.next_run_time is None:
            return
        wait = job.next_run_time.timestamp() - self._clock.now()
        if wait > self._config.interval_seconds:
            log.warning("this machine's clock was set back; the schedule is restarted", seconds=round(wait, 1))
            self._schedule()

    def _turn(self) -> None:
        self._turns.turn(prepare=self._reload_if_ordered)

    def _missed(self, _event: JobEvent) -> None:
        self._metrics.cycle_overrun()
        log.warning(
            "a cycle was left out: the one before it was still running", interval_seconds=self._config.interval_seconds
        )

    def _look(self) -> Snapshot:
        """The group as it is now, for an order."""
        seen = self._turns.cycle.observer.observe(self._clock.now()).snapshot
        return with_silence(seen, self._reach.silence(), acts=self._published.mode == "automatic")

    # --- what is reported ---------------------------------------------------------------------------------------------

    def _left_out(self, row: str) -> None:
        """Log once that a row of the store cannot be read."""
        if row not in self._broken:
            self._broken.add(row)
            log.error("a row of the store cannot be read and is left out", row=row)

    def _overrides(self) -> Overrides:
        """What people have set; as it was read last, while the store cannot be read."""
        with contextlib.suppress(StoreError):
            self._known_overrides = self._store.overrides()
        return self._known_overrides

    def _migration_ended(self, move: Move, outcome: MigrationOutcome) -> None:
        self._metrics.migration_ended(move, outcome)
        reports.migration_ended(move, outcome)

    def _ordered(self, action: Action) -> None:
        self._metrics.ordered(action)
        reports.ordered(action)

    # --- reload -------------------------------------------------------------------------------------------------------

    def _reload_if_ordered(self) -> None:
        if self._reload.is_set():
            self._reload.clear()
            self._read_again()

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
            changed = [name for name in _DECIDES if getattr(config, name) != getattr(self._config, name)]
            if changed:
                self._executor.drop(f"{', '.join(changed)} of the configuration changed after it was planned")
            rescheduled = config.interval_seconds != self._config.interval_seconds
            self._config = config
            self._executor.migrator = wiring.make_migrator(config, self._workers)
            self._executor.limits = limits_of(config.policy)
            self._turns.config = config
            self._turns.cycle = wiring.make_cycle(
                config, self._store, self._executor, self._accounts, self._clock, self._reach
            )
            if rescheduled:
                self._schedule()
            log.info("the configuration was read again")
        notify("READY=1")

    # --- at the start -------------------------------------------------------------------------------------------------

    def _check_reachable(self) -> None:
        """Report a wrong address at the start, as BadInput, instead of failing in every cycle.

        In mode recommend the hosts are asked beside the cycles: recommendations do not need libvirt. While a migration
        has no known end, Prometheus may be away: its domain may wait on its destination to be started.
        """
        try:
            seen = wiring.make_observer(self._config).observe(self._clock.now())
        except ClockError as error:  # at boot the clock may be wrong for a while; each cycle looks again
            log.warning("nothing can be done yet", why=str(error))
            return
        except VirtpoiseError as error:
            if not self._has_open_migrations():
                raise BadInput(f"prometheus.url: {error}") from None
            log.warning("nothing is planned yet; migrations without a known end are looked after", why=str(error))
            return
        hosts = [host.name for host in seen.snapshot.hosts if host.state is not HostState.UNKNOWN]
        if self._config.mode != "automatic":
            return
        self._reach.ask(hosts)
        silent = self._reach.silence().silent
        if silent and len(silent) == len(hosts):
            raise BadInput(f"libvirt.uri: no host answers; {silent[hosts[0]]}")

    def _has_open_migrations(self) -> bool:
        """Whether the store, if there is one that can be read, has a migration that is to be accounted for."""
        try:
            with contextlib.closing(wiring.open_store(self._config, self._left_out)) as store:
                return any(entry.is_open or entry.lost for entry in store.watched())
        except VirtpoiseError:
            return False
