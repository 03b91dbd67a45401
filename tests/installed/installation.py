"""What is installed where."""

from dataclasses import dataclass

from installed.manual import Administrator
from virtpoise_lab.machines.machine import Machine

# kvm3 has the newer Debian, and a guest of a machine type that the older one's QEMU knows.
HOSTS = {"kvm1": "bookworm", "kvm2": "bookworm", "kvm3": "trixie"}
GUESTS = {"vm1": "kvm1", "vm2": "kvm1", "vm3": "kvm2", "vm4": "kvm3"}
# The balancer's machine, and another one with the older Debian.
MANAGERS = {"manager": "trixie", "older": "bookworm"}

_MIGRATE = """
import sys
from pathlib import Path
from virtpoise_balancer.config import read_config
from virtpoise_balancer.execute.workers import Workers
from virtpoise_balancer.service import wiring

uuid, source, destination, bandwidth = sys.argv[1:]
with Workers() as workers:
    hosts = wiring.make_hosts(read_config(Path("/etc/virtpoise/virtpoise.yml")), workers)
    with hosts.migration(uuid, source, destination, int(bandwidth) or None) as running:
        print(("done" if running.error is None else running.error) if running.ended(120) else "no end")
"""


_REQUEST = """
import sys, threading
from pathlib import Path
from virtpoise_balancer.config import read_config
from virtpoise_balancer.execute.migrate import Migrator
from virtpoise_balancer.execute.workers import Workers
from virtpoise_balancer.model import Move, PredictedLoads, Prediction
from virtpoise_balancer.service import wiring

domain, uuid, source, destination, timeout, bandwidth = sys.argv[1:]
loads = PredictedLoads(source=Prediction.exact(0.1), destination=Prediction.exact(0.1))
move = Move(domain=domain, uuid=uuid, source=source, destination=destination, predicted=loads)
with Workers() as workers:
    hosts = wiring.make_hosts(read_config(Path("/etc/virtpoise/virtpoise.yml")), workers)
    limit = int(bandwidth)
    migrator = Migrator(
        hosts=hosts, timeout_seconds=float(timeout), stop_grace_seconds=1, bandwidth=lambda _at: limit
    )
    print(migrator.request(move, lambda _progress: None, threading.Event()).why)
"""


@dataclass(frozen=True)
class Installation:
    """kvm1, kvm2, kvm3 and manager, installed up to the page's first steps; and older, where only the mode was left."""

    machines: dict[str, Machine]
    administrator: Administrator

    @property
    def manager(self) -> Machine:
        return self.machines["manager"]

    @property
    def older(self) -> Machine:
        return self.machines["older"]

    def guests(self) -> dict[str, str]:
        """Where each domain runs: the host by the domain's name."""
        return {name: host for host in HOSTS for name in self.machines[host].run("virsh list --name").split()}

    def migrate(self, domain: str, source: str, destination: str, bandwidth_mib_per_second: int = 0) -> str:
        """Migrates as the balancer does, with its user, its code and its configuration.

        Returns libvirt's error, or "done".
        """
        uuid = self.machines[source].run(f"virsh domuuid {domain}").strip()
        asked = f"/opt/virtpoise/bin/python - {uuid} {source} {destination} {bandwidth_mib_per_second}"
        return self.manager.run(f"runuser -u virtpoise -- {asked}", text=_MIGRATE).strip()

    def request(self, domain: str, source: str, destination: str, timeout: int, bandwidth_mib_per_second: int) -> str:
        """Migrates as ``migrate`` does, within the balancer's bound of time. Returns its log and what went wrong."""
        uuid = self.machines[source].run(f"virsh domuuid {domain}").strip()
        asked = (
            f"/opt/virtpoise/bin/python - {domain} {uuid} {source} {destination} {timeout} {bandwidth_mib_per_second}"
        )
        return self.manager.run(f"runuser -u virtpoise -- {asked} 2>&1", text=_REQUEST, seconds=180).strip()
