"""Faults of hosts: their libvirt daemons, their power, the QEMUs on them, and the ways between them."""

from __future__ import annotations

from functools import partial

from virtpoise_balancer.execute.facts import Presence
from virtpoise_lab.campaign.faults.parts import LONG_SECONDS, SLOW, Begin, Met, lasting, of_host, switched
from virtpoise_lab.campaign.run import Run
from virtpoise_lab.campaign.world import WE


def _at(which: str, begin: str, end: str) -> Begin:
    """A fault of the world that meets one host."""
    return lasting(
        lambda run, met: getattr(run.world, begin)(getattr(met, which)),
        lambda run, met: getattr(run.world, end)(getattr(met, which)),
    )


def _cut(a: str, b: str) -> Begin:
    return lasting(
        lambda run, met: run.world.cut_way(met.end(a), met.end(b)),
        lambda run, met: run.world.mend_way(met.end(a), met.end(b)),
    )


def _lossy(a: str, b: str) -> Begin:
    """The way comes and goes, at moments of its own."""

    def begin(run: Run, met: Met, seconds: float) -> None:
        ends = [met.end(a), met.end(b)]
        until = run.kernel.at + seconds

        def change(*, cut: bool) -> None:
            (run.world.cut_way if cut else run.world.mend_way)(*ends)
            if cut or run.kernel.at < until:
                run.kernel.after(run.random.uniform(0.1, 4.0), partial(change, cut=not cut))

        change(cut=True)
        run.faulty_until(until + 4.0)

    return begin


def _qemu(which: str) -> Begin:
    def begin(run: Run, met: Met, _seconds: float) -> None:
        host = getattr(met, which)
        run.note(f"{host}: QEMU of {met.uuid} is killed")
        run.world.end_process(met.uuid, host, as_=Presence.DEFINED, by_person=False)

    return begin


def _qemu_is(how: str, which: str) -> Begin:
    """``how``: the set of the host's domains that it joins for a while."""

    def begin(run: Run, met: Met) -> None:
        run.note(f"{getattr(met, which)}: QEMU of {met.uuid} is {how}")
        getattr(run.world.machines[getattr(met, which)], how).add(met.uuid)

    def end(run: Run, met: Met) -> None:
        run.note(f"{getattr(met, which)}: QEMU of {met.uuid} is no longer {how}")
        getattr(run.world.machines[getattr(met, which)], how).discard(met.uuid)

    return lasting(begin, end)


def _emptiest(run: Run, _met: Met, _seconds: float) -> None:
    """The daemon of the host that every plan would choose is away for long."""
    host = min(run.hosts, key=lambda name: (run.world.used_cores(name), name))
    run.faulty_until(run.kernel.at + LONG_SECONDS)
    run.world.kill_daemon(host)
    run.kernel.after(LONG_SECONDS, partial(run.world.start_daemon, host))


def _slow(which: str) -> Begin:
    """A host that answers late, and long enough that a move may fail and be made again before it ends."""
    begin = of_host(which, "slow_seconds", lambda run: run.random.choice(SLOW))

    def for_long(run: Run, met: Met, seconds: float) -> None:
        run.faulty_until(run.kernel.at + seconds + LONG_SECONDS)
        begin(run, met, seconds + LONG_SECONDS)

    return for_long


OF_HOSTS: dict[str, Begin] = {
    "source-stopped": _at("source", "stop_daemon", "continue_daemon"),
    "destination-stopped": _at("destination", "stop_daemon", "continue_daemon"),
    "bystander-stopped": _at("bystander", "stop_daemon", "continue_daemon"),
    "source-daemon-killed": _at("source", "kill_daemon", "start_daemon"),
    "destination-daemon-killed": _at("destination", "kill_daemon", "start_daemon"),
    "emptiest-daemon-killed": _emptiest,
    "source-rebooted": _at("source", "power_off", "power_on"),
    "destination-rebooted": _at("destination", "power_off", "power_on"),
    "source-slow": _slow("source"),
    "destination-slow": _slow("destination"),
    "source-qemu-stopped": _qemu_is("stuck", "source"),
    "destination-qemu-stopped": _qemu_is("stuck", "destination"),
    "source-monitor-hangs": _qemu_is("mute", "source"),
    "destination-monitor-hangs": _qemu_is("mute", "destination"),
    "source-qemu-killed": _qemu("source"),
    "destination-qemu-killed": _qemu("destination"),
    "hosts-apart": _cut("source", "destination"),
    "hosts-lossy": _lossy("source", "destination"),
    "source-lossy": _lossy(WE, "source"),
    "destination-lossy": _lossy(WE, "destination"),
    "source-away": _cut(WE, "source"),
    "destination-away": _cut(WE, "destination"),
    "images-held": switched("world", "images_held", True, False),
}
