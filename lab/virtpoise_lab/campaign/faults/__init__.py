"""The faults of a run: when each begins, whom it meets, how long it lasts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from virtpoise_lab.campaign.faults.of_balancers import OF_BALANCERS
from virtpoise_lab.campaign.faults.of_figures import OF_FIGURES
from virtpoise_lab.campaign.faults.of_hosts import OF_HOSTS
from virtpoise_lab.campaign.faults.of_migrations import OF_MIGRATIONS
from virtpoise_lab.campaign.faults.of_people import OF_PEOPLE
from virtpoise_lab.campaign.faults.parts import Begin, Met
from virtpoise_lab.campaign.kernel import VirtualProcess
from virtpoise_lab.campaign.migration import Job, Step
from virtpoise_lab.campaign.run import Run
from virtpoise_lab.floors import DURATIONS

_LATEST_SECONDS = 60.0

FAULTS: dict[str, Begin] = {**OF_HOSTS, **OF_MIGRATIONS, **OF_FIGURES, **OF_BALANCERS, **OF_PEOPLE}


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
    uuid = run.random.choice(
        sorted(uuid for uuid, guest in run.world.guests.items() if guest.group == run.setting.group)
    )
    source = next(iter(run.world.active_on(uuid)), "h1")
    destination = _bystander(run, source)
    return Met(uuid, source, destination, _bystander(run, source, destination))
