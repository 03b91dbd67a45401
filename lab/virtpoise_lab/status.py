"""How a host of the lab is: what it reads of itself, and which domains run on it."""

from dataclasses import dataclass

import libvirt

from virtpoise_lab.errors import LabError
from virtpoise_lab.host import Host


@dataclass(frozen=True, slots=True)
class HostStatus:
    """A host as ``status`` shows it. cpu and memory: ratios as the host itself reads them; None if it does not
    answer.
    """

    name: str
    address: str
    uri: str
    libvirt: bool
    cpu_ratio: float | None
    memory_ratio: float | None
    domains: tuple[str, ...]


def status_of(host: Host) -> HostStatus:
    """What a host reads of itself over half a second, and the domains that run on it."""
    try:
        running = [d.name() for d in host.connection().listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)]
        answers = True
    except (LabError, libvirt.libvirtError):
        running, answers = [], False
    figures = host.run(
        ["sh", "-c", "head -n 1 /proc/stat; sleep 0.5; head -n 1 /proc/stat; head -n 3 /proc/meminfo"],
        text=True,
        capture_output=True,
        check=False,
    )
    cpu, memory = _ratios(figures.stdout) if figures.returncode == 0 else (None, None)
    return HostStatus(host.name, host.address, host.uri, answers, cpu, memory, tuple(sorted(running)))


def _ratios(text: str) -> tuple[float, float]:
    """CPU and memory use out of two first lines of /proc/stat and three of /proc/meminfo (proc(5))."""
    lines = [line.split() for line in text.splitlines()]
    before, after = ([int(field) for field in line[1:9]] for line in lines[:2])
    total = sum(after) - sum(before)
    idle = after[3] + after[4] - before[3] - before[4]
    memory = {line[0]: int(line[1]) for line in lines[2:]}
    cpu = (total - idle) / total if total else 0.0
    return max(0.0, min(1.0, cpu)), 1 - memory["MemAvailable:"] / memory["MemTotal:"]
