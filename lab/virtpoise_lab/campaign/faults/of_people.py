"""What people do to domains, and the orders that they give, while a plan is carried out."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from virtpoise_balancer.control.orders import Orders
from virtpoise_balancer.execute.facts import Presence
from virtpoise_lab.campaign.balancer import PERSON
from virtpoise_lab.campaign.faults.parts import LONG_SECONDS, SLOW, Begin, Met, of_host
from virtpoise_lab.campaign.migration import Job, Step, migrate
from virtpoise_lab.campaign.run import Run


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
    """Resume the domain on the host where it was suspended, or else where it has gone to.

    While it is migrated, libvirt lets the call wait.
    """
    if any(job.step > Step.BEGIN for job in run.world.running_jobs(uuid)):
        run.kernel.after(1.0, partial(_resume, run, uuid, host))
        return
    run.note(f"an administrator resumes {uuid}")
    found = run.world.active_on(uuid)
    for where in [host] if host in found else found:
        run.world.resume(uuid, where)


def _migrate(run: Run, met: Met, _seconds: float) -> None:
    for host in run.world.active_on(met.uuid)[:1]:
        other = run.random.choice(sorted(set(run.hosts) - {host}))
        run.world.guests[met.uuid].touched = True
        migrate(run.world, met.uuid, host, other, ours=False)


def _insist(run: Run, _met: Met, _seconds: float) -> None:
    """A person ends the next migration and makes it by hand, to a host that answers late; takes the domain back, and so
    on.
    """
    begun, until = False, run.kernel.at + LONG_SECONDS
    run.faulty_until(until)

    def on_step(job: Job) -> None:
        nonlocal begun
        met = job.ours and job.step is Step.PERFORM and job.source in run.hosts
        if met and not begun and run.kernel.at < until:
            begun = True
            run.note(f"an administrator aborts the migration of {job.uuid}, and makes it by hand")
            run.world.guests[job.uuid].touched = job.aborted = True
            run.faulty_until(run.kernel.at + 2 * LONG_SECONDS)
            slow(run, Met(job.uuid, job.source, job.destination, ""), 2 * LONG_SECONDS)
            for number in range(8):
                to = job.source if number % 2 else job.destination
                run.kernel.after(20.0 * (number + run.random.random()), partial(go, job.uuid, to))

    def go(uuid: str, to: str) -> None:
        for host in run.world.active_on(uuid)[:1]:
            if host != to:
                migrate(run.world, uuid, host, to, ours=False)

    slow = of_host("destination", "slow_seconds", lambda _run: SLOW[-1])
    run.world.on_step.append(on_step)


def _back_up(run: Run, met: Met, _seconds: float) -> None:
    run.faulty_until(run.kernel.at + LONG_SECONDS)
    run.world.back_up(met.uuid, LONG_SECONDS)


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


OF_PEOPLE: dict[str, Begin] = {
    "administrator-suspends": _suspend,
    "administrator-destroys": _ends(Presence.DESTROYED),
    "administrator-shuts-down": _ends(Presence.SHUT_OFF),
    "administrator-migrates": _migrate,
    "administrator-insists": _insist,
    "administrator-undefines": _undefine,
    "administrator-backs-up": _back_up,
    "administrator-renames": _rename,
    "person-undrains": _undrain,
    "person-pauses": _order(lambda orders, _met: orders.pause(PERSON), lambda orders, _met: orders.resume(PERSON)),
    "person-recommends": _order(
        lambda orders, _met: orders.set_mode("recommend", PERSON),
        lambda orders, _met: orders.set_mode("automatic", PERSON),
    ),
}
