"""Machines on which virtpoise is installed as docs/install.md says, once for all tests in this folder."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from installed.installation import GUESTS, HOSTS, MANAGERS, Installation
from installed.manual import ROOT, Administrator, build
from virtpoise_lab import artefacts
from virtpoise_lab import domain as domains
from virtpoise_lab.machines import trees
from virtpoise_lab.machines.fleet import fleet
from virtpoise_lab.machines.machine import Machine, Site
from virtpoise_lab.model import DomainSpec
from virtpoise_lab.processes import wait_until

# systemd 252 mounts a new /proc for the unit, and so without the calm figures that the machine sees.
_CALM = "[Service]\nBindReadOnlyPaths=/run/stat:/proc/stat\n"
_MACHINE_TYPE = "pc-i440fx-7.2"


def checkout(folder: Path) -> Path:
    """A copy of what is in the project's tree, without what git leaves out."""
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    for name in filter(None, names.split("\0")):
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)
    return folder


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(checkout(tmp_path_factory.mktemp("checkout")))


@pytest.fixture(scope="module")
def installation(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """Exporters and balancers on both Debians."""
    if os.geteuid() != 0:
        pytest.skip("machines are booted by root")
    boot = tmp_path_factory.mktemp("boot")
    shutil.copy(artefacts.kernel(), boot / "kernel")
    shutil.copy(artefacts.initramfs(), boot / "initramfs")
    shutil.copy(wheel, boot)
    boot.chmod(0o755)  # QEMU reads it as a user of its own
    suites = {**HOSTS, **MANAGERS}
    with fleet(
        [
            Site(
                name=name,
                number=number,
                tree=trees.tree(suite),
                mounts={"/wheels": trees.wheels(suite, ROOT), domains.BOOT: boot},
                masked=("prometheus.service",) if name in HOSTS else (),
            )
            for number, (name, suite) in enumerate(suites.items(), 1)
        ]
    ) as machines:
        for machine in machines.values():
            machine.run("printf '[global]\\nno-index = true\\nfind-links = /wheels\\n' > /etc/pip.conf")
            machine.run(f"cp {domains.BOOT}/{wheel.name} /root/")
        for host in HOSTS:
            drop_in = "/etc/systemd/system/virtpoise-exporter.service.d"
            machines[host].run(f"mkdir {drop_in}; cat > {drop_in}/calm.conf", text=_CALM)
        _start_guests(machines)
        for host in HOSTS:
            machines[host].run("virsh capabilities >/dev/null")  # libvirt's first answer takes long on a busy CPU
        administrator = Administrator([machines[name] for name in HOSTS], machines["manager"])
        older = [machines["older"]]
        administrator.type("On every host")
        for section in ("On the balancer's machine", "SSH keys", "Prometheus"):
            administrator.type(section, also=older)
        for manager in MANAGERS:
            _wait_for_figures(machines[manager])
        administrator.type("The balancer", also=older)
        administrator.type("First steps")
        yield Installation(machines, administrator)


def _start_guests(machines: dict[str, Machine]) -> None:
    for name, host in GUESTS.items():
        xml = domains.xml(DomainSpec(name), "tcg", 1.0).replace('machine="pc"', f'machine="{_MACHINE_TYPE}"')
        machines[host].run(f"install -d -o libvirt-qemu {domains.CONSOLES}; cat > /root/{name}.xml", text=xml)
        machines[host].run(f"virsh define /root/{name}.xml && virsh start {name}")
    for host in HOSTS:
        machines[host].run(f"install -d -o libvirt-qemu {domains.CONSOLES}")


def _wait_for_figures(manager: Machine) -> None:
    """Until each host was scraped often enough for the balancer to reckon with it."""
    query = 'count_over_time(virtpoise_host_cpu_seconds_total{mode="idle"}[1m]) >= 4'
    ask = f"curl -s http://127.0.0.1:9090/api/v1/query --data-urlencode 'query={query}'"

    def scraped() -> bool:
        answer = manager.run(ask, check=False)
        return all(f"{host}:9807" in answer for host in HOSTS)

    wait_until(scraped, 180, "all hosts are scraped", every=1)
