"""The daemon: a cycle at each whole step of the clock, signals, reload, systemd.

Survives a failed cycle and reports it.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import UTC, datetime
from pathlib import Path

import structlog
from apscheduler.events import EVENT_JOB_MAX_INSTANCES, EVENT_JOB_MISSED, JobEvent
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.interval import IntervalTrigger

from virtpoise_balancer.clock import SYSTEM, Clock
from virtpoise_balancer.config import Config, check_secrets, read_config
from virtpoise_balancer.errors import BadInput, ClockError, VirtpoiseError
from virtpoise_balancer.execute.executor import HANDOVER_SECONDS
from virtpoise_balancer.execute.migrate import ABORT_SECONDS
from virtpoise_balancer.execute.workers import Workers
from virtpoise_balancer.knowledge.store import Store
from virtpoise_balancer.service import signals, wiring
from virtpoise_balancer.service.common_notes import CommonNotes
from virtpoise_balancer.service.group import Common, GroupAtStart, ServedGroup
from virtpoise_balancer.service.leading import Leadership
from virtpoise_balancer.service.roster import Roster
from virtpoise_balancer.service.systemd import notify
from virtpoise_balancer.service.turns import EarlyLook
from virtpoise_balancer.threads import THREADS, Lock
from virtpoise_balancer.web.app import make_app
from virtpoise_balancer.web.guard import Gate
from virtpoise_balancer.web.server import WebServer

log = structlog.get_logger()

_JOB = "cycle"
# For how many groups Prometheus is queried at once.
_AT_ONCE = 4
# How long a stop may take besides its migrations: for a cycle that has begun, and for what is written at the end.
_BESIDE_MIGRATIONS_SECONDS = 10.0
# Read only when the daemon starts: an open store and a listening socket are not changed while it runs.
_FIXED = ("state", "web", "log")


class Daemon:
    """One balancer, of the configuration in a file. Making one does nothing; ``run()`` reads the file and starts."""

    _config: Config
    _groups: tuple[ServedGroup, ...]
    _store: Store
    _turning: Lock
    _leadership: Leadership
    _web: WebServer
    _workers: Workers

    def __init__(self, config_path: Path, clock: Clock = SYSTEM) -> None:
        self._path = config_path
        self._clock = clock
        self._stop = threading.Event()
        self._reload = threading.Event()
        self._scheduler = BackgroundScheduler(timezone=UTC)
        self._roster = Roster()
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
                    **({"groups": list(self._config.groups)} if self._config.groups else {}),
                    mode=self._config.mode,
                    strategy=self._config.policy.strategy,
                    interval_seconds=self._config.interval_seconds,
                    listen=self._config.web.listen_address,
                )
                notify("READY=1")
                while not self._stop.wait(self._config.interval_seconds / 2):
                    self._between_cycles()
            finally:  # whatever ends it: the interpreter must not end with a move under way
                self._end()

    def _between_cycles(self) -> None:
        for act in (self._follow_clock, self._leadership.keep):
            try:
                act()
            except Exception:  # the cycles go on, and the next round tries again
                log.exception("what is done between two cycles failed in an unforeseen way")

    def stop(self) -> None:
        """Stop the balancer, as SIGTERM does."""
        self._stop.set()

    def _open(self) -> None:
        self._config = read_config(self._path)
        check_secrets(self._config)  # a wrong file is reported now, not to the first who needs it
        starts = [GroupAtStart(own, self._workers) for own in self._config.each_group.values()]
        self._check_reachable(starts)
        self._leadership = Leadership(wiring.make_lock(self._config), self._config.interval_seconds, self._clock)
        self._store = wiring.make_store(self._config, self._left_out, upgrade=self._leadership.take_lock())
        self._turning = THREADS.lock()
        common = Common(
            store=self._store,
            leadership=self._leadership,
            workers=self._workers,
            roster=self._roster,
            notes=CommonNotes(),
            gate=Gate(self._config.web),
            turning=self._turning,
            clock=self._clock,
            left_out=self._left_out,
            reload=self._reload.set,
            stopping=lambda: self._web.stopping,
            every=lambda: [group.context for group in self._groups],
        )
        self._groups = tuple(ServedGroup(start, common) for start in starts)
        self._web = WebServer.open(make_app(*(group.context for group in self._groups)), self._config.web)

    def _end(self) -> None:
        # systemd must not cut off what the configuration gives time for: the unit's TimeoutStopSec is for the defaults.
        grace = max(group.config.migration.stop_grace_seconds for group in self._groups)
        takes = grace + ABORT_SECONDS + HANDOVER_SECONDS + _BESIDE_MIGRATIONS_SECONDS
        notify(f"STOPPING=1\nEXTEND_TIMEOUT_USEC={takes * 1e6:.0f}")
        if under_way := [group for group in self._groups if group.executor.in_flight]:
            grace = max(group.config.migration.stop_grace_seconds for group in under_way)
            log.info("stopping: waiting for migrations under way", seconds=grace)
        self._store.database.hurry()
        self._scheduler.shutdown(wait=True)
        with ThreadPoolExecutor(len(self._groups)) as pool:  # all within the grace of one
            leads = self._leadership.leads
            for closed in [pool.submit(group.executor.close, leads=leads) for group in self._groups]:
                closed.result()
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
        """A turn of each group, one after another as the looks at them end: none waits for another's."""
        if len(self._groups) == 1:
            self._groups[0].turns.turn(prepare=self._reload_if_ordered)
            return
        with ThreadPoolExecutor(min(len(self._groups), _AT_ONCE), "look at groups") as pool:
            with self._turning:
                self._reload_if_ordered()
                asked = {group.name: pool.submit(group.members).result for group in self._groups}
                self._roster.keep_up(asked, lambda: {group.name: group.machines() for group in self._groups})
            if not self._leadership.leads:  # who waits looks at nothing
                for group in self._groups:
                    group.turns.turn()
                return
            at = self._clock.now()
            looks = {pool.submit(group.turns.look, at): group for group in self._groups}
            for look in as_completed(looks):
                if not self._stop.is_set():
                    looks[look].turns.turn(early=EarlyLook(at, look.result))

    def _missed(self, _event: JobEvent) -> None:
        for group in self._groups:
            group.metrics.cycle_overrun()
        log.warning(
            "a cycle was left out: the one before it was still running", interval_seconds=self._config.interval_seconds
        )

    # --- what is reported ---------------------------------------------------------------------------------------------

    def _left_out(self, row: str) -> None:
        """Log once that a row of the store cannot be read."""
        if row not in self._broken:
            self._broken.add(row)
            log.error("a row of the store cannot be read and is left out", row=row)

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
            if config.groups.keys() != self._config.groups.keys():
                fixed.append("groups")  # which there are: each has its own memory, and moves that may be under way
            if fixed:
                log.warning("these sections take effect only after a restart", sections=fixed)
            config = config.model_copy(update={name: getattr(self._config, name) for name in fixed})
            rescheduled = config.interval_seconds != self._config.interval_seconds
            self._config = config
            own = config.each_group
            for group in self._groups:
                group.use(own[group.name])
            if rescheduled:
                self._schedule()
            log.info("the configuration was read again")
        notify("READY=1")

    # --- at the start -------------------------------------------------------------------------------------------------

    def _check_reachable(self, groups: Sequence[GroupAtStart]) -> None:
        """Log each group that cannot be observed yet. BadInput when none can.

        While a migration has no known end, Prometheus may be away: its domain may wait on its destination to be
        started.
        """
        failures: list[str] = []
        for group in groups:
            about = {"group": group.name} if group.name else {}
            try:
                group.check_reachable(self._clock.now())
            except ClockError as error:  # at boot the clock may be wrong for a while; each cycle looks again
                log.warning("waiting: no cycle can run yet", why=str(error), **about)
            except BadInput as error:
                failures.append(str(error))
                if len(groups) > 1:
                    log.warning("waiting: no cycle can run yet", why=str(error), **about)
            except VirtpoiseError as error:
                failures.append(f"prometheus.url: {error}")
                if self._has_open_migrations():
                    failures.pop()
                    why = "nothing is planned yet; migrations without a known end are looked after"
                    log.warning(why, why=str(error), **about)
                elif len(groups) > 1:
                    log.warning("waiting: no cycle can run yet", why=str(error), **about)
        if len(failures) == len(groups):
            raise BadInput(failures[0])

    def _has_open_migrations(self) -> bool:
        """Whether the store, if there is one that can be read, has a migration that is to be accounted for."""
        try:
            with contextlib.closing(wiring.open_store(self._config, self._left_out)) as store:
                return any(entry.is_open or entry.lost for entry in store.watched(in_all_groups=True))
        except VirtpoiseError:
            return False
