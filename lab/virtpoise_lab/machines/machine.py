"""One machine: boots from a tree, on which it writes in memory only, and takes commands as its root."""

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from virtpoise_lab.artefacts import CACHE
from virtpoise_lab.errors import LabError
from virtpoise_lab.machines.room import BRIDGE, FOLDER, Room, children
from virtpoise_lab.processes import wait_until

_NSPAWN = CACHE / "systemd-container" / "usr" / "bin" / "systemd-nspawn"
_LIBRARIES = CACHE / "libsystemd-shared" / "usr" / "lib" / "x86_64-linux-gnu" / "systemd"
_NETWORK = "10.99.0"
_BOOT_SECONDS = 180.0
# The machine's card is a port of the bridge that its guests use, too.
_LINKS = """[Unit]
DefaultDependencies=no
Before=network-pre.target
[Service]
Type=oneshot
ExecStartPre=sh -c "until ip link show dev eth-{name} 2>&1; do sleep 0.1; done"
ExecStart=ip link set dev eth-{name} name eth0
ExecStart=ip link add name br0 type bridge
ExecStart=ip link set dev eth0 master br0 up
ExecStart=ip link set dev br0 up
ExecStart=ip address add {address}/24 dev br0
"""
_ROOT = {
    "HOME": "/root",
    "USER": "root",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C.UTF-8",
}
# Where control groups are of version 1, no empty one is reported in a container. So the manager of a user who has
# logged out stops only after two minutes, and until then whoever logs in as that user waits. Here it is never stopped.
_LOGINS = "[Login]\nUserStopDelaySec=infinity\n"
_CALM = """[Unit]
DefaultDependencies=no
Before=sysinit.target
[Service]
ExecStart=python3 /root/calm.py 0.1
"""


@dataclass(frozen=True, slots=True)
class Site:
    """What a machine is to be. ``tree``: what it boots from; ``mounts``: folders of this machine that it may read, by
    its own paths;

    ``masked``: packaged services that it does not run.
    """

    name: str
    number: int
    tree: Path
    mounts: Mapping[str, Path] = field(default_factory=dict)
    masked: Sequence[str] = ()

    @property
    def address(self) -> str:
        return f"{_NETWORK}.{self.number}"


class Machine:
    """A machine in a room; it ends with the room."""

    def __init__(self, room: Room, site: Site, all_sites: Sequence[Site]) -> None:
        """Starts to boot; `connect` and `wait` see it through."""
        self.name, self.address = site.name, site.address
        self._room = room
        self._log = CACHE / "machines" / f"{site.name}.log"
        self._leader = 0
        self._prepare(site, all_sites)
        with self._log.open("wb") as log:
            self._nspawn = subprocess.Popen(
                room.grouped(room.command(_boot(site)), site.name),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def _prepare(self, site: Site, all_sites: Sequence[Site]) -> None:
        base, name = FOLDER / site.name, site.name
        names = "".join(f"{one.address} {one.name}\n" for one in all_sites)
        masked = "".join(f"ln -s /dev/null etc/systemd/system/{service}\n" for service in site.masked)
        script = f"""
        set -e
        mkdir -p {base}/upper {base}/work {base}/root
        mount -t overlay -o lowerdir={site.tree},upperdir={base}/upper,workdir={base}/work overlay {base}/root
        cd {base}/root
        echo {name} > etc/hostname
        printf '127.0.0.1 localhost\\n::1 localhost\\n{names}' > etc/hosts
        tr -d - < /proc/sys/kernel/random/uuid > etc/machine-id
        rm -f etc/ssh/ssh_host_*
        chroot . ssh-keygen -A >/dev/null
        printf 'cgroup_controllers = []\\nsecurity_driver = "none"\\n' >> etc/libvirt/qemu.conf
        {masked}
        printf '%s' '{_LINKS.format(name=name, address=site.address)}' > etc/systemd/system/links.service
        mkdir -p etc/systemd/logind.conf.d
        printf '%s' '{_LOGINS}' > etc/systemd/logind.conf.d/stay.conf
        printf '%s' '{_CALM}' > etc/systemd/system/calm.service
        cp {Path(__file__).with_name("calm.py")} root/calm.py
        ln -s ../links.service ../calm.service etc/systemd/system/sysinit.target.wants/
        ip link add name {name} type veth peer name eth-{name}
        ip link set dev {name} master {BRIDGE} up
        """
        self._room.run("sh", "-c", script)

    def connect(self) -> None:
        """Gives the machine its network card as soon as it has begun to boot. LabError when it ends before."""

        def begun() -> bool:
            self._check()
            self._leader = _leader(self._nspawn.pid)
            return self._leader != 0 and self._room.is_left_by(self._leader)

        wait_until(begun, _BOOT_SECONDS, f"{self.name} begins to boot", every=0.1)
        self._room.give(f"eth-{self.name}", self._leader)

    def wait(self) -> None:
        """Wait until the machine has booted. LabError when it ends before or takes too long."""

        def up() -> bool:
            self._check()
            return self.run("systemctl is-system-running", check=False).strip() in ("running", "degraded")

        try:
            wait_until(up, _BOOT_SECONDS, f"{self.name} boots", every=0.5)
        except LabError as error:
            raise LabError(f"{error}; it waits for: {self.run('systemctl list-jobs', check=False)}") from None

    def ended(self) -> None:
        """Waits until it has ended with its room."""
        self._nspawn.wait(30)

    def _check(self) -> None:
        if self._nspawn.poll() is not None:
            raise LabError(f"{self.name} did not boot: {self._log.read_text(errors='replace').strip()}")

    def command(self, shell: str) -> list[str]:
        """The command that has this machine's root type a line into its shell."""
        environment = [f"{name}={value}" for name, value in _ROOT.items()]
        inside = ["nsenter", f"--target={self._leader}", "--all", "--", "env", "--ignore-environment", *environment]
        # Not in the machine's own group: there its systemd rules.
        return self._room.grouped([*inside, "bash", "-c", f"cd; {shell}"], f"{self.name}-typed")

    def run(self, shell: str, *, check: bool = True, text: str | None = None, seconds: float = 180) -> str:
        """What the line that root types writes on standard output.

        LabError with what it writes on both when it fails.
        """
        ran = subprocess.run(
            self.command(shell), capture_output=True, text=True, input=text or "", check=False, timeout=seconds
        )
        if check and ran.returncode:
            raise LabError(f"{self.name}: {shell}: exit {ran.returncode}: {ran.stderr.strip()} {ran.stdout.strip()}")
        return ran.stdout


def _boot(site: Site) -> list[str]:
    mounts = [f"--bind-ro={there}:{here}" for here, there in site.mounts.items()]
    return [
        "env",
        f"LD_LIBRARY_PATH={_LIBRARIES}",
        # A newer systemd wants to be asked twice where the kernel offers cgroups of version 1 only.
        "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=0",
        str(_NSPAWN),
        "--boot",
        "--quiet",
        f"--directory={FOLDER}/{site.name}/root",
        f"--machine={site.name}",
        "--register=no",
        "--keep-unit",
        "--private-network",
        "--resolv-conf=off",
        "--capability=all",
        "--bind=/dev/net/tun",
        "--console=passive",
        *mounts,
    ]


def _leader(pid: int) -> int:
    """The first process of the machine that runs below this one; 0 while there is none."""
    for child in children(pid):
        status = Path(f"/proc/{child}/status").read_text()
        numbers = next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[1:]
        if len(numbers) > 2 and numbers[-1] == "1":
            return child
        if found := _leader(child):
            return found
    return 0
