"""One lab for many runs: mended and proven whole between them.

Its guests boot no system, and what makes a host overloaded is that its memory is nearly full: so a run needs little of
this machine's CPU, and is the same on a busy one.
"""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from xml.etree.ElementTree import tostring

import libvirt

from virtpoise_lab import acceleration, cgroups, domain, processes, state
from virtpoise_lab.boot import MIB
from virtpoise_lab.chaos import asked, rules
from virtpoise_lab.chaos.asked import Standing
from virtpoise_lab.chaos.between import Between, of_exporters, of_prometheus
from virtpoise_lab.chaos.images import Images
from virtpoise_lab.chaos.network import Network
from virtpoise_lab.chaos.plan import HOMES, ROOM, THRESHOLD, Need, Plan, Task
from virtpoise_lab.chaos.truth import qemus
from virtpoise_lab.errors import LabError
from virtpoise_lab.host import Host
from virtpoise_lab.lab import Lab
from virtpoise_lab.model import DomainSpec
from virtpoise_lab.postgresql import Server
from virtpoise_lab.stack import BALANCER, EXPORTER_PORT, Stack

_HOST_MIB = 1500
# A guest's memory, and the part of it that is not zero and has to be sent.
GUEST_MIB, _FILLED_MIB = 64, 40
_DISK_MIB = 12
_WEIGHT = 15
_TRIALS = 3


class Warm:
    """Hosts, domains, exporters and Prometheus. ``disk``: a small disk of its own for the balancer's store.

    ``prometheus``, ``exporters``: what stands between them and who asks them, where a run needs it.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self._closing = ExitStack()
        self._server: Server | None = None
        self._with_images = self._renamed = False
        self.specs = {name: DomainSpec(name) for name in HOMES}
        self.lab = Lab.up(3, host_memory_mib=_HOST_MIB, background=True, replace_live=True, say=say)
        try:
            # It needs half a CPU at most, and must get it: time-outs are those of real daemons.
            cgroups.weigh(cgroups.mounted(), _WEIGHT)
            self.network = Network(self.lab)
            filling = random.Random(1).randbytes(_FILLED_MIB * MIB)
            for host in self.lab.hosts:
                (host.folder / "lib" / "boot" / "filling").write_bytes(filling)
            self.disk = state.FOLDER / "disk"
            self.disk.mkdir()
            mount = ["mount", "-t", "tmpfs", "-o", f"size={_DISK_MIB}m", "virtpoise-store", str(self.disk)]
            subprocess.run(mount, check=True)
            self.stack = Stack.start(self.lab, balancer=True, rules=rules.scaled(state.FOLDER))
            self.images = Images(HOMES)
            self._closing.callback(self.images.close)
            self.prometheus = Between(of_prometheus(self.stack.url))
            self._closing.callback(self.prometheus.close)
            self.exporters = Between(of_exporters(self.lab.hosts))
            self._closing.callback(self.exporters.close)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self.lab.down()
        self._closing.close()

    @property
    def server(self) -> Server:
        """A PostgreSQL server, started when it is first needed."""
        if self._server is None:
            self._server = Server()
            self._closing.callback(self._server.close)
        return self._server

    # --- between runs -------------------------------------------------------------------------------------------------

    def make_whole(self, plan: Plan) -> None:
        """Make it as new: no balancer, nothing measured, each domain once and at home, and what the plan's task and
        fault want. LabError if that cannot be done.
        """
        self._end_balancers()
        self.network.mend()
        with ThreadPoolExecutor(len(self.lab.hosts)) as pool:
            list(pool.map(self._mend_host, self.lab.hosts))
        anew = self._renamed or plan.needs(Need.IMAGES) != self._with_images
        self._with_images, self._renamed = plan.needs(Need.IMAGES), plan.fault == "administrator-renames"
        for trial in range(_TRIALS):
            try:
                self._send_home(anew=anew)
                break
            except LabError as problem:
                self.say(f"mending: {problem}")
                if trial == _TRIALS - 1:
                    raise
        self._give_memory(plan.task)
        self.stack.scrape_balancers(BALANCER)
        self.stack.route(self.exporters.address if plan.needs(Need.EXPORTERS) else None)
        self.stack.forget()
        self._prove_whole()

    def _end_balancers(self) -> None:
        balancers = [one.process for one in self.lab.state.processes if one.host is None and "balancer" in one.name]
        for process in balancers:
            process.signal(signal.SIGKILL)
        processes.wait_until(lambda: not any(process.alive() for process in balancers), 10, "the balancers' end")
        for folder in (self.disk, *state.FOLDER.glob("balancer*")):
            for left in folder.glob("*"):
                left.unlink() if left.is_file() or left.is_socket() else shutil.rmtree(left)

    def _mend_host(self, host: Host) -> None:
        """Its daemons run and answer, and no QEMU is stopped."""
        for pid in host.group.pids():
            processes.signal_pid(pid, signal.SIGCONT)
        host.disconnect()
        for name in ("exporter", "libvirtd"):
            with suppress(LabError):
                self.lab.pid(name, host.name)
                continue
            self.start(name, host)
        try:
            asked.on_host(host)
        except LabError as problem:
            self.say(f"libvirtd is started again: {problem}")
            processes.signal_pid(self.lab.pid("libvirtd", host.name), signal.SIGKILL)
            processes.wait_until(lambda: not self._runs("libvirtd", host), 10, "its end")
            self.start("libvirtd", host)
            asked.on_host(host)

    def start(self, name: str, host: Host) -> None:
        """Start a daemon of a host again."""
        if name == "exporter":
            self.stack.start_exporter(host.name)
        else:
            # What libvirtd died of may have left its number behind; it refuses to start beside itself.
            self.clear(host, "libvirtd.pid")
            host.start_libvirtd()

    def clear(self, host: Host, name: str) -> None:
        """Remove what a daemon has left in the host's /run."""
        left = host.folder / "run" / name
        shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)

    def _runs(self, name: str, host: Host) -> bool:
        try:
            self.lab.pid(name, host.name)
        except LabError:
            return False
        return True

    def _send_home(self, *, anew: bool) -> None:
        places = asked.everywhere(self.lab.hosts)
        for name, here in places.items():
            for host, standing in here.items():
                if standing.busy:
                    self._end_job(name, host)
        if any(standing.busy for here in places.values() for standing in here.values()):
            places = asked.everywhere(self.lab.hosts)
        with ThreadPoolExecutor(len(HOMES)) as pool:
            list(pool.map(lambda name: self._one_home(name, places.get(name, {}), anew=anew), HOMES))

    def _end_job(self, name: str, host: str) -> None:
        def at_rest() -> bool:
            standing = asked.on_host(self.lab.host(host)).get(name)
            if standing is None or not standing.busy:
                return True
            with suppress(LabError, libvirt.libvirtError), asked.fresh(self.lab.host(host)) as connection:
                connection.lookupByUUIDString(self.specs[name].uuid).abortJob()
            return False

        processes.wait_until(at_rest, 15, f"{name} without a job on {host}", 0.2)

    def _one_home(self, name: str, here: Mapping[str, Standing], *, anew: bool) -> None:
        """One copy of the domain, at home and defined there. One that is elsewhere is ended and started at home."""
        home = HOMES[name]
        if not anew and here == {home: Standing("running", True, False)}:
            return
        for host in here:
            self.remove(name, self.lab.host(host))
        self._define(name, self.lab.host(home), start=True)

    def remove(self, name: str, host: Host) -> None:
        """End the domain on that host, and its definition there."""

        def ask() -> None:
            with asked.fresh(host) as connection, suppress(libvirt.libvirtError):
                found = connection.lookupByUUIDString(self.specs[name].uuid)
                if found.isActive():
                    found.destroy()
                with suppress(libvirt.libvirtError):
                    found.undefine()

        asked.patiently(f"{name} leaves {host.name}", ask)

    def revive(self, name: str, host: Host) -> None:
        """Let the domain run on that host, and be defined there."""
        standing = asked.on_host(host).get(name)
        if standing is not None and standing.state == "paused":

            def resume() -> None:
                with asked.fresh(host) as connection:
                    connection.lookupByUUIDString(self.specs[name].uuid).resume()

            asked.patiently(f"{name} goes on", resume)
        self._define(name, host, start=standing is None or standing.state not in asked.ACTIVE)

    def _define(self, name: str, host: Host, *, start: bool) -> None:
        image = self.images.paths[name] if self._with_images else None
        root = domain.without_system(self.specs[name], acceleration.found(), GUEST_MIB, f"{domain.BOOT}/filling", image)

        def ask() -> None:
            with asked.fresh(host) as connection:
                made = connection.defineXML(tostring(root, encoding="unicode"))
                if start:
                    made.create()

        asked.patiently(f"{name} on {host.name}", ask, 30)

    def _give_memory(self, task: Task) -> None:
        """Each host has memory for as many guests as the task gives it room for, below the threshold."""
        for host in self.lab.hosts:
            host.group.limit_memory(_HOST_MIB * MIB)
        for host in self.lab.hosts:
            room = ROOM[task].get(host.name)
            if room is not None:
                here = sum(home == host.name for home in HOMES.values())
                # Half a guest less than what one more would take.
                wanted = self.used_memory(host) + (room - here + 0.5) * GUEST_MIB * MIB
                host.group.limit_memory(round(wanted / THRESHOLD))

    def used_memory(self, host: Host) -> int:
        """The bytes that a host's own /proc/meminfo shows as used."""
        text = host.run(["cat", "/proc/meminfo"], text=True, capture_output=True).stdout
        found = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in text.splitlines() if line}
        return found["MemTotal"] - found["MemAvailable"]

    def _prove_whole(self) -> None:
        found = asked.everywhere(self.lab.hosts)
        wanted = {name: {home: Standing("running", True, False)} for name, home in HOMES.items()}
        if found != wanted:
            raise LabError(f"the domains are not as they were: {shown(found)}")
        for host in self.lab.hosts:
            strays = set(qemus(host)) - {name for name, home in HOMES.items() if home == host.name}
            if strays:
                raise LabError(f"{host.name} has QEMUs that libvirt does not know: {', '.join(sorted(strays))}")
        if (health := self.stack.health()) != {f"{host.name}:{EXPORTER_PORT}": "up" for host in self.lab.hosts}:
            raise LabError(f"the exporters are not as they were: {health}")

    def logs(self) -> list[Path]:
        """What the daemons have written."""
        return [*sorted((state.FOLDER / "logs").glob("*.log")), *sorted(state.FOLDER.glob("balancer*/*.log"))]


def shown(places: asked.Places) -> str:
    """In words, for a message."""
    return "; ".join(
        f"{name}: {', '.join(f'{standing} on {host}' for host, standing in sorted(here.items())) or 'nowhere'}"
        for name, here in sorted(places.items())
    )
