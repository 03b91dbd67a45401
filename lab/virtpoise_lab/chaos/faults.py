"""The faults of the lab floor, by name. Names that the model floor has too mean the same there."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from itertools import cycle

import libvirt

from virtpoise_lab import processes
from virtpoise_lab.chaos import asked, between
from virtpoise_lab.chaos.between import Answer
from virtpoise_lab.chaos.moments import Met
from virtpoise_lab.chaos.network import MANAGER
from virtpoise_lab.chaos.plan import RENAMED
from virtpoise_lab.chaos.run import Run
from virtpoise_lab.chaos.store import StoreFile, StoreServer
from virtpoise_lab.chaos.truth import qemus
from virtpoise_lab.errors import LabError
from virtpoise_lab.host import Host
from virtpoise_lab.processes import signal_pid

# In the block the fault lasts.
Fault = Callable[[Run, Met], AbstractContextManager[None]]

_FLICKER_SECONDS = 0.7
_START_SECONDS = 3.0
_P2P = (
    libvirt.VIR_MIGRATE_LIVE
    | libvirt.VIR_MIGRATE_PEER2PEER
    | libvirt.VIR_MIGRATE_PERSIST_DEST
    | libvirt.VIR_MIGRATE_UNDEFINE_SOURCE
)
# By how many seconds the balancer's clock is ahead: in seeds that are even, and in those that are odd.
_STEPS = (-120.0, 600.0)


@contextmanager
def _stopped(pid: int) -> Iterator[None]:
    signal_pid(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        signal_pid(pid, signal.SIGCONT)


def _daemon_stopped(which: str, name: str) -> Fault:
    return lambda run, met: _stopped(run.warm.lab.pid(name, getattr(met, which)))


def _daemon_killed(which: str, name: str) -> Fault:
    @contextmanager
    def fault(run: Run, met: Met) -> Iterator[None]:
        with _killed(run, name, run.warm.lab.host(getattr(met, which))):
            yield

    return fault


@contextmanager
def _killed(run: Run, name: str, host: Host) -> Iterator[None]:
    pid = processes.process(run.warm.lab.pid(name, host.name))
    pid.signal(signal.SIGKILL)
    try:
        yield
    finally:
        processes.wait_until(lambda: not pid.alive(), 10, f"the end of {name}")
        run.warm.start(name, host)


@contextmanager
def _emptiest_killed(run: Run, _met: Met) -> Iterator[None]:
    """The daemon of the host that a plan would choose first: with room for most guests more."""
    running = [host for (_, host), state in run.watch.now.items() if state == "running"]

    def guests_more(host: Host) -> int:
        return run.facts.room.get(host.name, len(run.facts.homes)) - running.count(host.name)

    host = max((one for one in run.warm.lab.hosts if one.name != run.facts.drained), key=guests_more)
    run.facts.ends = {**run.facts.ends, "emptiest": host.name}
    with _killed(run, "libvirtd", host):
        yield


@contextmanager
def _rebooted(which: str, run: Run, met: Met) -> Iterator[None]:
    host = run.warm.lab.host(getattr(met, which))
    for pid in host.group.pids():
        if pid != host.init.pid:  # which keeps the host's namespaces
            signal_pid(pid, signal.SIGKILL)
    try:
        yield
    finally:
        host.disconnect()
        for left in ("libvirt", "libvirtd.pid"):  # what a boot would clear
            run.warm.clear(host, left)
        for name in ("libvirtd", "exporter"):
            run.warm.start(name, host)


def _qemu(which: str, run: Run, met: Met) -> int | None:
    """The domain's QEMU there; the destination's may be about to start."""
    host = run.warm.lab.host(getattr(met, which))
    with suppress(LabError):
        processes.wait_until(lambda: met.domain in qemus(host), _START_SECONDS, "its QEMU")
    return qemus(host).get(met.domain)


@contextmanager
def _qemu_killed(which: str, run: Run, met: Met) -> Iterator[None]:
    pid = _qemu(which, run, met)
    if pid is not None:
        signal_pid(pid, signal.SIGKILL)
    yield


@contextmanager
def _qemu_stopped(which: str, run: Run, met: Met) -> Iterator[None]:
    pid = _qemu(which, run, met)
    if pid is None:
        yield
        return
    with _stopped(pid):
        yield


@contextmanager
def _cut(a: str, b: str, run: Run, met: Met) -> Iterator[None]:
    ends = [end if end == MANAGER else str(getattr(met, end)) for end in (a, b)]
    run.warm.network.cut(ends[0], ends[1])
    try:
        yield
    finally:
        run.warm.network.mend()


@contextmanager
def _lossy(a: str, b: str, run: Run, met: Met) -> Iterator[None]:
    """The way between the two comes and goes: what crosses it is delayed, and some is lost."""
    ends = [end if end == MANAGER else str(getattr(met, end)) for end in (a, b)]
    over = threading.Event()

    def flicker() -> None:
        for broken in cycle((True, False)):
            if broken:
                run.warm.network.cut(ends[0], ends[1])
            else:
                run.warm.network.mend()
            if over.wait(_FLICKER_SECONDS):
                return

    thread = threading.Thread(target=flicker)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        run.warm.network.mend()


@contextmanager
def _prometheus_killed(run: Run, _met: Met) -> Iterator[None]:
    signal_pid(run.warm.lab.pid("prometheus"), signal.SIGKILL)
    run.warm.lab.stop("prometheus")
    try:
        yield
    finally:
        run.warm.stack.start_prometheus()


def _prometheus_changed(change: Callable[[Answer], Answer]) -> Fault:
    return lambda run, _met: run.warm.prometheus.answering(change(run.warm.prometheus.plain))


def _exporter_changed(change: Callable[[str, Answer], Answer]) -> Fault:
    """That of the source in seeds that are even, and that of the destination in those that are odd."""

    def fault(run: Run, met: Met) -> AbstractContextManager[None]:
        host = (met.source, met.destination)[run.plan.seed % 2]
        run.facts.ends = {**run.facts.ends, "changed": host}
        return run.warm.exporters.answering(change(host, run.warm.exporters.plain))

    return fault


def _clock_stepped(run: Run, _met: Met) -> AbstractContextManager[None]:
    return run.clock.stepped(_STEPS[run.plan.seed % 2])


def _file(run: Run) -> StoreFile:
    assert isinstance(run.store, StoreFile)
    return run.store


def _postgresql_restarted(run: Run, _met: Met) -> AbstractContextManager[None]:
    assert isinstance(run.store, StoreServer)
    return run.store.restarted()


@contextmanager
def _balancer_killed(run: Run, _met: Met) -> Iterator[None]:
    run.kill_balancer()
    try:
        yield
    finally:
        run.balancer.launch()


@contextmanager
def _balancer_ended(run: Run, _met: Met) -> Iterator[None]:
    """It is stopped in order, as by systemctl, and started again afterwards."""
    run.end_balancer()
    try:
        yield
    finally:
        run.balancer.launch()


@contextmanager
def _lock_removed(run: Run, _met: Met) -> Iterator[None]:
    """Someone removes the lock's file under the balancer that acts, and another one finds none."""
    path = _file(run).path
    path.with_name(f"{path.name}.lock").unlink()
    run.add_balancer()
    yield


@contextmanager
def _second_balancer(run: Run, _met: Met) -> Iterator[None]:
    """Another one on the same store, which stays until the end."""
    run.add_balancer()
    yield


def _act(act: Callable[[libvirt.virDomain], object], run: Run, met: Met) -> None:
    """What a person does with the domain where it is active."""
    for host in run.active_on(met.domain)[:1]:
        run.touched.add(met.domain)
        _do(act, run, met, host)


def _do(act: Callable[[libvirt.virDomain], object], run: Run, met: Met, host: str) -> None:
    with suppress(LabError, libvirt.libvirtError), asked.fresh(run.warm.lab.host(host)) as connection:
        act(connection.lookupByUUIDString(run.uuids[met.domain]))


@contextmanager
def _administrator(act: Callable[[libvirt.virDomain], object], run: Run, met: Met) -> Iterator[None]:
    _act(act, run, met)
    yield


@contextmanager
def _suspended(run: Run, met: Met) -> Iterator[None]:
    _act(lambda domain: domain.suspend(), run, met)
    try:
        yield
    finally:
        _act(_resume, run, met)


def _resume(domain: libvirt.virDomain) -> None:
    if domain.state() == [libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_USER]:
        domain.resume()


@contextmanager
def _renamed(run: Run, met: Met) -> Iterator[None]:
    """A person ends it and gives it another name, and starts it afterwards."""
    for host in run.active_on(met.domain)[:1]:
        run.touched.add(met.domain)
        _do(lambda domain: domain.destroy(), run, met, host)
        _do(lambda domain: domain.rename(f"{met.domain}{RENAMED}"), run, met, host)
        yield
        _do(lambda domain: domain.create(), run, met, host)
        return
    yield


@contextmanager
def _migrated(run: Run, met: Met) -> Iterator[None]:
    """A person migrates it to the third host, as soon as libvirt lets them."""
    uri = run.warm.lab.host(met.bystander).uri
    order = partial(_act, lambda domain: domain.migrateToURI3(uri, {}, _P2P), run, met)
    thread = threading.Thread(target=order, daemon=True)
    thread.start()
    yield
    thread.join(60)


FAULTS: dict[str, Fault] = {
    "source-stopped": _daemon_stopped("source", "libvirtd"),
    "destination-stopped": _daemon_stopped("destination", "libvirtd"),
    "bystander-stopped": _daemon_stopped("bystander", "libvirtd"),
    "source-daemon-killed": _daemon_killed("source", "libvirtd"),
    "destination-daemon-killed": _daemon_killed("destination", "libvirtd"),
    "emptiest-daemon-killed": _emptiest_killed,
    "source-rebooted": partial(_rebooted, "source"),
    "destination-rebooted": partial(_rebooted, "destination"),
    "source-qemu-killed": partial(_qemu_killed, "source"),
    "destination-qemu-killed": partial(_qemu_killed, "destination"),
    "source-qemu-stopped": partial(_qemu_stopped, "source"),
    "destination-qemu-stopped": partial(_qemu_stopped, "destination"),
    "hosts-apart": partial(_cut, "source", "destination"),
    "hosts-lossy": partial(_lossy, "source", "destination"),
    "source-lossy": partial(_lossy, MANAGER, "source"),
    "destination-lossy": partial(_lossy, MANAGER, "destination"),
    "source-away": partial(_cut, MANAGER, "source"),
    "destination-away": partial(_cut, MANAGER, "destination"),
    "administrator-suspends": _suspended,
    "administrator-destroys": partial(_administrator, lambda domain: domain.destroy()),
    "administrator-migrates": _migrated,
    "administrator-renames": _renamed,
    "administrator-undefines": partial(_administrator, lambda domain: domain.undefine()),
    "prometheus-killed": _prometheus_killed,
    "prometheus-stuck": lambda run, _met: _stopped(run.warm.lab.pid("prometheus")),
    "prometheus-slow": _prometheus_changed(between.slow),
    "prometheus-behind": _prometheus_changed(between.behind),
    "prometheus-garbage": _prometheus_changed(between.garbage),
    "exporter-gone": _daemon_killed("source", "exporter"),
    "exporter-stuck": _daemon_stopped("destination", "exporter"),
    "exporter-empty": _exporter_changed(between.without_domains),
    "exporter-miscounting": _exporter_changed(between.miscounted),
    "exporter-lying": _exporter_changed(between.lies),
    "exporter-twofold": lambda run, met: run.warm.stack.twofold(met.destination, met.bystander),
    "store-locked": lambda run, _met: _file(run).locked(),
    "store-full": lambda run, _met: _file(run).full(),
    "store-gone": lambda run, _met: _file(run).gone(),
    "store-refuses-beginnings": lambda run, _met: _file(run).refuses_beginnings(),
    "postgresql-restarted": _postgresql_restarted,
    "images-held": lambda run, _met: run.warm.images.held(),
    "clock-stepped": _clock_stepped,
    "balancer-killed": _balancer_killed,
    "balancer-ended": _balancer_ended,
    "balancer-stopped": lambda run, _met: _stopped(run.balancer.process.pid),
    "balancer-handed-over": _balancer_killed,  # another one waits
    "balancer-lock-removed": _lock_removed,
    "second-balancer": _second_balancer,
}
# These are over at once.
INSTANT = {
    "source-qemu-killed",
    "destination-qemu-killed",
    "administrator-destroys",
    "administrator-migrates",
    "administrator-undefines",
    "balancer-lock-removed",
    "second-balancer",
}
