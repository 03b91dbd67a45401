"""One run on the warm lab: a task, a fault at its moment, healing, a person who mends what was broken, and the facts
for the oracle.
"""

from __future__ import annotations

import shutil
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import libvirt

from virtpoise_lab.chaos import asked, oracle
from virtpoise_lab.chaos.faults import FAULTS, INSTANT
from virtpoise_lab.chaos.moments import Met, Moments
from virtpoise_lab.chaos.oracle import Look
from virtpoise_lab.chaos.plan import HOMES, THRESHOLD, Moment, Need, Plan
from virtpoise_lab.chaos.run import Run
from virtpoise_lab.chaos.store import StoreServer
from virtpoise_lab.chaos.truth import Watch
from virtpoise_lab.chaos.warm import Warm, shown
from virtpoise_lab.errors import LabError
from virtpoise_lab.floors import Entry

INTERVAL_SECONDS = 2.0
_TASK_SECONDS = 120.0
# The unit waits 10 s; here all waiting is shorter.
_RESTART_SECONDS = 2.0
_BAD_INPUT = 2
# Time-outs are not shorter here, and nor is what the balancer may take after them.
_DEFAULT_INTERVAL_SECONDS = 10.0
# What was on its way when the fault ended comes first.
_SETTLE_SECONDS = 4.0
# So a migration takes about 5 s, and lasts for as long as a balancer takes to start where another takes over.
_BANDWIDTH_MIB, _BANDWIDTH_OF_TAKE_OVER_MIB = 8, 3
_FIRED = 'last_over_time(ALERTS{alertstate="firing"}[%ds])'
_CYCLES, _OLDEST = "virtpoise_cycles_total[%ds]", "virtpoise_migration_oldest_seconds[%ds]"


@dataclass(frozen=True)
class Outcome:
    """How a run ended. ``violations``: what must not be, in words. ``trace``: what happened, with seconds."""

    plan: Plan
    violations: tuple[str, ...]
    reached: bool
    migrations: int
    seconds: float
    trace: tuple[str, ...]
    logs: str = ""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class Play(Run):
    """Plays a run to its end."""

    def play(self) -> Outcome:
        self.watch = Watch(self.warm.lab)
        self.facts.changes = self.watch.changes
        reached = False
        try:
            self._start()
            met = Moments(self).wait()
            reached = met.reached
            self._fault(met)
            self._after_healing()
            self._mend()
            self._finish()
            self._stop()
        except (LabError, OSError) as problem:
            self.facts.died.append(f"the run broke off: {problem}")
        finally:
            self._over.set()
            self.watch.close()
        self._tracebacks()
        entries = self._entries()
        if isinstance(self.store, StoreServer):
            self.store.close()
        self._trace += [f"  journal: {entry}" for entry in entries]
        return Outcome(
            plan=self.plan,
            violations=tuple(oracle.judge(self.facts)),
            reached=reached,
            migrations=sum(entry.began is not None for entry in entries),
            seconds=round(time.time() - self._began, 1),
            trace=tuple(self._trace + self._seen()),
        )

    def _start(self) -> None:
        slow = self.plan.moment is Moment.TAKE_OVER
        bandwidth = _BANDWIDTH_OF_TAKE_OVER_MIB if slow else _BANDWIDTH_MIB
        through = self.plan.needs(Need.PROMETHEUS)
        self.balancer.configure(
            f"http://{self.warm.prometheus.address}" if through else self.warm.stack.url,
            state=self.store.section,
            interval_seconds=INTERVAL_SECONDS,
            policy={
                # Whatever else this machine does must not look like an overload: no run has a thousand samples. No
                # setting switches the CPU off, and a figure that is made up instead would change what is planned.
                "cpu": {"threshold": 1.0, "consecutive": 1000, "recovery": 1.0},
                "memory": {"threshold": THRESHOLD, "consecutive": 2, "recovery": THRESHOLD - 0.01},
                "penalty": {"initial_seconds": 2, "step_seconds": 1},
                "backoff": {"initial_seconds": 4, "growth": 1, "max_seconds": 4},
                "rest_seconds": 10,
            },
            migration={"bandwidth_mib_per_second": bandwidth, "timeout_seconds": 60, "stop_grace_seconds": 10},
            measurement={"settle_seconds": 2, "window_seconds": 4},
        )
        self.balancer.start()
        self.note("the balancer has run its first cycle")
        if self.plan.needs(Need.STANDBY):
            self.add_balancer()
        threading.Thread(target=self._keep_running, daemon=True).start()
        if self.facts.drained:
            threading.Thread(target=self._order_drain, args=(self.facts.drained,), daemon=True).start()

    def _keep_running(self) -> None:
        """What the balancer's unit has systemd do: start it again when it ends with an error."""
        while not self._over.wait(_RESTART_SECONDS):
            with self._keeping:
                self._note_held()
                for one in self._balancers:
                    if one.ended is None or self._over.is_set():
                        continue
                    if one.ended != _BAD_INPUT:  # what it names does not answer: it may later
                        self.facts.died.append(f"{one.name} has ended by itself, with status {one.ended}")
                    self.note(f"{one.name} has ended with status {one.ended}, and is started again")
                    one.launch()

    def _order_drain(self, host: str) -> None:
        """A person orders it until it is in the store."""
        while not self._over.is_set() and not self.store.drains(host):
            with suppress(LabError):
                self.note(f"a person orders: drain {host}: {self.balancer.order(f'hosts/{host}/drain')}")
            self._over.wait(1)

    def _fault(self, met: Met) -> None:
        plan = self.plan
        seconds = 0.0 if plan.fault in INSTANT else plan.seconds
        self.facts.ends = {"source": met.source, "destination": met.destination, "bystander": met.bystander}
        where = f"{met.domain} from {met.source} to {met.destination}"
        self.note(
            f"fault: {plan.fault} for {seconds:g} s at {plan.moment}{'' if met.reached else ' (not reached)'}, {where}"
        )
        self.facts.began = time.time()
        with FAULTS[plan.fault](self, met):
            self._over.wait(seconds)
        self.facts.healed = time.time()
        self.note("healed")

    def _after_healing(self) -> None:
        """Look until all is as it must be, at most for five intervals of a balancer with its default."""
        deadline = time.monotonic() + 5 * _DEFAULT_INTERVAL_SECONDS
        self._over.wait(_SETTLE_SECONDS)
        while True:
            self.facts.after = self._look()
            if not list(oracle.after_healing(self.facts, self.facts.after)) or time.monotonic() > deadline:
                break
            self._over.wait(INTERVAL_SECONDS / 2)
        since = max(1, round(time.time() - self.facts.began))
        self.facts.fired = frozenset(
            (one["metric"]["alertname"], one["metric"].get("host", "")) for one in self.warm.stack.query(_FIRED % since)
        )
        self.facts.cycles = self._cycles(since)
        self.facts.oldest = self._samples(_OLDEST % since)
        self.note(f"after it: {shown(self.facts.after.places)}; firing: {sorted(self.facts.after.alerts)}")

    def _entries(self) -> list[Entry]:
        """The journal, with the times at which the clock showed what it has."""

        def true(shown: float | None) -> float | None:
            return None if shown is None else self.clock.true(shown)

        return [
            replace(one, began=true(one.began), ended=true(one.ended), planned=true(one.planned))
            for one in self.store.entries()
        ]

    def _cycles(self, seconds: float) -> list[float]:
        """When a cycle had ended, as it was scraped, well or not; newest last."""
        found = [one["values"] for one in self.warm.stack.query(_CYCLES % seconds)]
        changed = (float(at) for values in found for (_, before), (at, now) in pairwise(values) if now != before)
        return sorted(changed)

    def _samples(self, query: str) -> list[tuple[float, float]]:
        """What was scraped of the balancer: Unix seconds and value."""
        return [(float(at), float(value)) for one in self.warm.stack.query(query) for at, value in one["values"]]

    def _look(self) -> Look:
        places = asked.everywhere(self.warm.lab.hosts)
        firing = frozenset(
            (one["metric"]["alertname"], one["metric"].get("host", ""))
            for one in self.warm.stack.query('ALERTS{alertstate="firing"}')
        )
        return Look(time.time(), places, self._entries(), firing)

    def _mend(self) -> None:
        """What a person does: leaves one copy of a domain, starts one that is down, defines one that is not."""
        assert self.facts.after is not None
        for name, here in self.facts.after.places.items():
            if any(standing.busy for standing in here.values()):
                continue
            active = asked.active(self.facts.after.places, name)
            if len(active) == 1 and here[active[0]] == asked.Standing("running", True, False):
                continue
            self._mend_domain(name, active, list(here))

    def _mend_domain(self, name: str, active: list[str], known: list[str]) -> None:
        keep = active[0] if active else known[0] if known else HOMES[name]
        self.facts.mended.add(name)
        self.note(f"a person mends {name}: active on {active}, known on {known}; it stays on {keep}")
        for host in known:
            if host != keep:
                self.warm.remove(name, self.warm.lab.host(host))
        with suppress(LabError, libvirt.libvirtError):
            self.warm.revive(name, self.warm.lab.host(keep))

    def _finish(self) -> None:
        """Wait until the task is done and nothing is under way any more."""
        deadline = time.monotonic() + _TASK_SECONDS
        while True:
            look = self._look()
            running = all(len(asked.active(look.places, name)) == 1 for name in HOMES)
            busy = any(one.busy for here in look.places.values() for one in here.values())
            quiet = not busy and not any(entry.is_open for entry in look.entries)
            self.facts.task_done = running and self._task_done(look.places)
            alarmed = {name for name, _ in look.alerts} & {oracle.TWICE, oracle.LOST}
            if (self.facts.task_done and quiet and not alarmed) or time.monotonic() > deadline:
                break
            self._over.wait(0.5)
        self.facts.end = look
        with self._keeping:
            self._note_held()
        self.note(
            f"at the end: {shown(look.places)}; task {'done' if self.facts.task_done else 'not done'}; {self.facts.held}"
        )

    def _task_done(self, places: asked.Places) -> bool:
        on = {
            host.name: [name for name in HOMES if host.name in asked.active(places, name)]
            for host in self.warm.lab.hosts
        }
        if self.facts.drained:
            return self.store.drains(self.facts.drained) and not on[self.facts.drained]
        return all(len(on[host]) <= room for host, room in self.facts.room.items())

    def _stop(self) -> None:
        self._over.set()
        with self._keeping:
            for one in self._balancers:
                if one.ended is None:
                    self._told_to_stop(one)
                else:
                    self.facts.died.append(f"{one.name} has ended by itself, with status {one.ended}")

    def _tracebacks(self) -> None:
        for one in self._balancers:
            lines = one.log.read_text(encoding="utf-8", errors="replace").splitlines()
            self.facts.tracebacks += [lines[-1] for line in lines if line.startswith("Traceback")][:1]

    def _seen(self) -> list[str]:
        """The states of the QEMUs over time, for the trace."""
        lines = []
        for at, states in self.watch.changes:
            text = ", ".join(f"{name}@{host} {now}" for (name, host), now in sorted(states.items()))
            lines.append(f"{at - self._began:7.2f}  QEMU: {text}")
        return lines


def play(warm: Warm, plan: Plan, keep: Path) -> Outcome:
    """Play one plan on a lab that is whole. The logs of a violating one are kept in a folder below ``keep``."""
    outcome = Play(warm, plan).play()
    if not outcome.violations:
        return outcome
    folder = keep / f"{plan.seed}-{plan.fault}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "trace").write_text("\n".join([*outcome.violations, "", *outcome.trace]) + "\n", encoding="utf-8")
    for log in warm.logs():
        shutil.copy(log, folder / f"{log.parent.name}-{log.name}")
    return Outcome(**{**vars(outcome), "logs": str(folder)})
