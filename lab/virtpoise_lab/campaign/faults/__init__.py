"""The faults of a run: when each begins, whom it meets, how long it lasts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from virtpoise_balancer.control.orders import Orders
from virtpoise_balancer.execute.facts import Presence
from virtpoise_lab.campaign.balancer import PERSON
from virtpoise_lab.campaign.kernel import VirtualProcess
from virtpoise_lab.campaign.migration import Job, Step, migrate
from virtpoise_lab.campaign.world import WE
from virtpoise_lab.floors import DURATIONS

if TYPE_CHECKING:
    from virtpoise_lab.campaign.run import Run

_LATEST_SECONDS = 60.0
_LONG_SECONDS = 90.0
CLOCK_STEPS = (-120.0, -15.0, 15.0, 120.0)


@dataclass(frozen=True)
class Met:
    """Whom a fault meets."""

    uuid: str
    source: str
    destination: str
    bystander: str


Begin = Callable[["Run", Met, float], None]


def _lasting(begin: Callable[[Run, Met], None], end: Callable[[Run, Met], None]) -> Begin:
    def both(run: Run, met: Met, seconds: float) -> None:
        begin(run, met)
        run.kernel.after(seconds, partial(end, run, met))

    return both


def _at(which: str, begin: str, end: str) -> Begin:
    """A fault of the world that meets one host."""
    return _lasting(
        lambda run, met: getattr(run.world, begin)(getattr(met, which)),
        lambda run, met: getattr(run.world, end)(getattr(met, which)),
    )


def _cut(a: str, b: str) -> Begin:
    def end(met: Met, which: str) -> str:
        return WE if which == WE else str(getattr(met, which))

    return _lasting(
        lambda run, met: run.world.cut_way(end(met, a), end(met, b)),
        lambda run, met: run.world.mend_way(end(met, a), end(met, b)),
    )


def _set(part: str, name: str, value: object, healed: object) -> Begin:
    def set_to(what: object) -> Callable[[Run, Met], None]:
        def do(run: Run, _met: Met) -> None:
            run.note(f"{part}: {name} = {what}")
            setattr(getattr(run, part), name, what)

        return do

    return _lasting(set_to(value), set_to(healed))


def _exporter(fault: str) -> Begin:
    def begin(run: Run, met: Met) -> None:
        host = run.random.choice([met.source, met.destination])
        run.note(f"{host}: exporter {fault}")
        run.server.exporters[host] = fault

    def end(run: Run, _met: Met) -> None:
        run.note("exporters are well")
        run.server.exporters.clear()

    return _lasting(begin, end)


def _store(fault: str) -> Begin:
    def set_to(what: str) -> Callable[[Run, Met], None]:
        def do(run: Run, _met: Met) -> None:
            run.note(f"store: {what or 'well'}")
            run.disk.fault = what

        return do

    return _lasting(set_to(fault), set_to(""))


def _qemu(which: str) -> Begin:
    def begin(run: Run, met: Met, _seconds: float) -> None:
        host = getattr(met, which)
        run.note(f"{host}: QEMU of {met.uuid} is killed")
        run.world.end_process(met.uuid, host, as_=Presence.DEFINED, by_person=False)

    return begin


def _ends(as_: Presence) -> Begin:
    def begin(run: Run, met: Met, _seconds: float) -> None:
        for host in run.world.active_on(met.uuid)[:1]:
            run.note(f"an administrator ends {met.uuid} on {host} ({as_})")
            run.world.end_process(met.uuid, host, as_=as_, by_person=True)

    return begin


def _suspend(run: Run, met: Met, seconds: float) -> None:
    for host in run.world.active_on(met.uuid)[:1]:
        run.note(f"an administrator suspends {met.uuid} on {host}")
        run.world.suspend(met.uuid, host)

        run.kernel.after(seconds, partial(_resume, run, met.uuid, host))


def _resume(run: Run, uuid: str, host: str) -> None:
    """Resume the domain on the host where it was suspended, or else where it has gone to."""
    run.note(f"an administrator resumes {uuid}")
    found = run.world.active_on(uuid)
    for where in [host] if host in found else found:
        run.world.resume(uuid, where)


def _migrate(run: Run, met: Met, _seconds: float) -> None:
    for host in run.world.active_on(met.uuid)[:1]:
        other = run.random.choice(sorted(set(run.hosts) - {host}))
        run.world.guests[met.uuid].touched = True
        migrate(run.world, met.uuid, host, other, ours=False)


def _back_up(run: Run, met: Met, _seconds: float) -> None:
    run.faulty_until(run.kernel.at + _LONG_SECONDS)
    run.world.back_up(met.uuid, _LONG_SECONDS)


def _undefine(run: Run, met: Met, _seconds: float) -> None:
    for host in run.world.active_on(met.uuid)[:1]:
        run.note(f"an administrator undefines {met.uuid} on {host}")
        run.world.undefine(met.uuid, host)


def _rename(run: Run, met: Met, seconds: float) -> None:
    """A domain is shut down, renamed and started again."""
    for host in run.world.active_on(met.uuid)[:1]:
        run.note(f"an administrator shuts {met.uuid} down on {host} and renames it")
        run.world.end_process(met.uuid, host, as_=Presence.SHUT_OFF, by_person=True)
        run.world.guests[met.uuid].name += "-renamed"
        run.kernel.after(seconds, lambda: run.world.start_again(met.uuid))


def _stop_qemu(which: str) -> Begin:
    def begin(run: Run, met: Met) -> None:
        run.note(f"{getattr(met, which)}: QEMU of {met.uuid} is stopped")
        run.world.machines[getattr(met, which)].stuck.add(met.uuid)

    def end(run: Run, met: Met) -> None:
        run.note(f"{getattr(met, which)}: QEMU of {met.uuid} goes on")
        run.world.machines[getattr(met, which)].stuck.discard(met.uuid)

    return _lasting(begin, end)


def _lossy(a: str, b: str) -> Begin:
    """The way comes and goes, at moments of its own."""

    def begin(run: Run, met: Met, seconds: float) -> None:
        ends = [WE if which == WE else str(getattr(met, which)) for which in (a, b)]
        until = run.kernel.at + seconds

        def change(*, cut: bool) -> None:
            (run.world.cut_way if cut else run.world.mend_way)(*ends)
            if cut or run.kernel.at < until:
                run.kernel.after(run.random.uniform(0.1, 4.0), partial(change, cut=not cut))

        change(cut=True)
        run.faulty_until(until + 4.0)

    return begin


def _twofold(run: Run, met: Met, seconds: float) -> None:
    """Two targets have the name of one host, and the second one shows another host's figures."""
    host = run.random.choice([met.source, met.destination])
    run.note(f"{host}: a second target of this name")
    run.server.twofold[host] = met.bystander

    def end() -> None:
        run.note(f"{host}: one target again")
        run.server.twofold.clear()

    run.kernel.after(seconds, end)
    run.faulty_until(run.kernel.at + seconds)


def _hand_over(run: Run, _met: Met, seconds: float) -> None:
    """A second balancer waits, and takes over when the one that acts is killed."""
    run.start_balancer()
    run.kernel.after(min(seconds, 15.0), run.kill_balancer)
    run.faulty_until(run.kernel.at + 15.0)


def _lock_removed(run: Run, _met: Met, _seconds: float) -> None:
    """Someone removes the lock file under the balancer that acts, and a second one finds none."""
    run.note("the lock file is removed")
    run.lock_file.unlink(missing_ok=True)
    run.start_balancer()


def _order(give: Callable[[Orders, Met], str], take_back: Callable[[Orders, Met], str]) -> Begin:
    """A person gives an order while a plan is carried out, and takes it back later."""

    def begin(run: Run, met: Met, seconds: float) -> None:
        run.person.order(lambda orders: give(orders, met))
        run.kernel.after(seconds, lambda: run.person.order(lambda orders: take_back(orders, met), until_followed=True))

    return begin


def _undrain(run: Run, met: Met, seconds: float) -> None:
    """A person takes a drain back for a while, or drains the source for a while."""
    host = run.draining or met.source
    drain = partial(run.person.order, lambda orders: orders.drain(host, PERSON))
    undrain = partial(run.person.order, lambda orders: orders.undrain(host, PERSON))
    first, then = (undrain, drain) if run.draining else (drain, undrain)
    run.person.no_drain_before = run.kernel.at + seconds
    first()  # not again and again: it would come after the second order, which takes it back
    run.kernel.after(seconds, partial(then, until_followed=True))


def _step_clock(run: Run, _met: Met, seconds: float) -> None:
    ahead = run.random.choice(CLOCK_STEPS)

    def step(by: float) -> None:
        run.note(f"the balancer's clock is stepped by {by:+g} s")
        for balancer in run.balancers:
            balancer.process.ahead_seconds += by

    step(ahead)
    run.kernel.after(seconds, partial(step, -ahead))


def _kill(run: Run, _met: Met, seconds: float) -> None:
    run.kernel.after(min(seconds, 15.0), run.start_balancer)
    run.kill_balancer()


def _emptiest(run: Run, _met: Met, _seconds: float) -> None:
    """The daemon of the host that every plan would choose is away for long."""
    host = min(run.hosts, key=lambda name: (run.world.used_cores(name), name))
    run.faulty_until(run.kernel.at + _LONG_SECONDS)
    run.world.kill_daemon(host)
    run.kernel.after(_LONG_SECONDS, partial(run.world.start_daemon, host))


def _second(run: Run, _met: Met, _seconds: float) -> None:
    run.start_balancer()


FAULTS: dict[str, Begin] = {
    "source-stopped": _at("source", "stop_daemon", "continue_daemon"),
    "destination-stopped": _at("destination", "stop_daemon", "continue_daemon"),
    "bystander-stopped": _at("bystander", "stop_daemon", "continue_daemon"),
    "source-daemon-killed": _at("source", "kill_daemon", "start_daemon"),
    "destination-daemon-killed": _at("destination", "kill_daemon", "start_daemon"),
    "source-rebooted": _at("source", "power_off", "power_on"),
    "destination-rebooted": _at("destination", "power_off", "power_on"),
    "source-qemu-stopped": _stop_qemu("source"),
    "destination-qemu-stopped": _stop_qemu("destination"),
    "source-qemu-killed": _qemu("source"),
    "destination-qemu-killed": _qemu("destination"),
    "hosts-apart": _cut("source", "destination"),
    "hosts-lossy": _lossy("source", "destination"),
    "source-lossy": _lossy(WE, "source"),
    "destination-lossy": _lossy(WE, "destination"),
    "source-away": _cut(WE, "source"),
    "destination-away": _cut(WE, "destination"),
    "administrator-suspends": _suspend,
    "administrator-destroys": _ends(Presence.DESTROYED),
    "administrator-shuts-down": _ends(Presence.SHUT_OFF),
    "administrator-migrates": _migrate,
    "administrator-undefines": _undefine,
    "administrator-backs-up": _back_up,
    "administrator-renames": _rename,
    "prometheus-killed": _set("server", "dead", True, False),
    "prometheus-slow": _set("server", "slow_seconds", 0.4, 0.0),
    "prometheus-stuck": _set("server", "slow_seconds", 30.0, 0.0),
    "prometheus-behind": _set("server", "behind_seconds", 3600.0, 0.0),
    "prometheus-garbage": _set("server", "garbage", True, False),
    "prometheus-blind": _set("server", "blind", True, False),
    "exporter-gone": _exporter("gone"),
    "exporter-stuck": _exporter("stuck"),
    "exporter-empty": _exporter("empty"),
    "exporter-miscounting": _exporter("miscounting"),
    "exporter-lying": _exporter("lying"),
    "exporter-twofold": _twofold,
    "store-locked": _store("locked"),
    "store-full": _store("full"),
    "store-gone": _store("gone"),
    "clock-stepped": _step_clock,
    "images-held": _set("world", "images_held", True, False),
    "balancer-killed": _kill,
    "second-balancer": _second,
    "balancer-handed-over": _hand_over,
    "balancer-lock-removed": _lock_removed,
    "person-undrains": _undrain,
    "person-pauses": _order(lambda orders, _met: orders.pause(PERSON), lambda orders, _met: orders.resume(PERSON)),
    "person-recommends": _order(
        lambda orders, _met: orders.set_mode("recommend", PERSON),
        lambda orders, _met: orders.set_mode("automatic", PERSON),
    ),
    "emptiest-daemon-killed": _emptiest,
}


def at_once(run: Run, name: str, seconds: float) -> None:
    """Have a fault begin now and last for this long."""
    run.note(f"fault: {name} for {seconds:g} s")
    FAULTS[name](run, _someone(run), seconds)


def plan(run: Run, name: str) -> None:
    """Have a fault begin at a moment of the run that the seed chooses."""
    random = run.random
    seconds = random.choice(DURATIONS)
    begin = FAULTS[name]
    kind = random.choice(("step", "step", "step", "store", "turn", "time"))
    begun = False

    def now(met: Met | None = None) -> None:
        nonlocal begun
        if not begun:
            begun = True
            run.pending -= 1
            run.note(f"fault: {name} for {seconds:g} s")
            run.faulty_until(run.kernel.at + seconds)
            begin(run, met or _someone(run), seconds)

    # Whatever the moment, the fault comes.
    run.pending += 1
    run.kernel.after(_LATEST_SECONDS, now)
    if kind == "step":
        step, nth = random.choice(list(Step)), random.choice((1, 1, 1, 2, 3))
        delay = random.choice((0.0, 0.0, 0.1, 1.0, 3.0))
        run.world.on_step.append(_on_step(run, step, nth, delay, now))
    elif kind == "store":
        when, nth = random.choice(("before", "after")), random.randint(1, 12)
        run.disk.moments.append(_on_store(run, when, nth, now))
    elif kind == "turn":
        run.kernel.after(10.0 * random.randint(1, 5) + random.choice((0.0, 0.05, 0.2)), now)
    else:
        run.kernel.after(random.random() * _LATEST_SECONDS, now)


def _on_step(run: Run, step: Step, nth: int, delay: float, now: Callable[[Met | None], None]) -> Callable[[Job], None]:
    seen = 0

    def look(job: Job) -> None:
        nonlocal seen
        if job.ours and job.step is step and job.source in run.hosts:
            seen += 1
            if seen == nth:
                met = Met(job.uuid, job.source, job.destination, _bystander(run, job.source, job.destination))
                run.kernel.after(delay, partial(now, met))

    return look


def _on_store(
    run: Run, when: str, nth: int, now: Callable[[Met | None], None]
) -> Callable[[str, VirtualProcess], None]:
    seen = 0

    def look(which: str, _process: VirtualProcess) -> None:
        nonlocal seen
        if which == when:
            seen += 1
            if seen == nth:
                now(None)

    return look


def _bystander(run: Run, *ends: str) -> str:
    return run.random.choice(sorted(set(run.hosts) - set(ends)))


def _someone(run: Run) -> Met:
    """The ends of a migration under way, or else of one that could be."""
    for job in run.world.jobs:
        if not job.over and job.source in run.hosts:
            return Met(job.uuid, job.source, job.destination, _bystander(run, job.source, job.destination))
    uuid = run.random.choice(sorted(uuid for uuid, guest in run.world.guests.items() if guest.group == run.group))
    source = next(iter(run.world.active_on(uuid)), "h1")
    destination = _bystander(run, source)
    return Met(uuid, source, destination, _bystander(run, source, destination))
