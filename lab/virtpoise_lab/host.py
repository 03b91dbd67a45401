"""One host of the lab: its namespaces, its own view of CPU and memory, its libvirtd, and processes inside it."""

import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.resources import as_file, files
from pathlib import Path
from typing import IO, Any

import libvirt

from virtpoise_lab import artefacts, processes, state
from virtpoise_lab.cgroups import Group
from virtpoise_lab.domain import BRIDGE, CONSOLES, MONITOR
from virtpoise_lab.errors import LabError
from virtpoise_lab.model import LIBVIRT_PORT, HostSpec
from virtpoise_lab.processes import Process

LXCFS_MOUNT = state.FOLDER / "lxcfs"
LOGS = state.FOLDER / "logs"

# libvirt's default is to print every error to stderr, besides raising it.
libvirt.registerErrorHandler(lambda _context, _error: None, None)

_LIBVIRTD = """\
host_uuid = "{uuid}"
listen_tls = 0
listen_tcp = 1
listen_addr = "{address}"
tcp_port = "{port}"
# The lab's own bridge: only its hosts and this machine are on it.
auth_tcp = "none"
auth_unix_ro = "none"
auth_unix_rw = "none"
unix_sock_group = "root"
"""

_QEMU = """\
stdio_handler = "file"
security_driver = "none"
user = "root"
group = "root"
namespaces = []
cgroup_controllers = []
migration_address = "0.0.0.0"
migration_host = "{address}"
"""

# libvirtd looks up Debian's user even where another one is configured; the package that would make it starts services.
_ACCOUNTS = {
    "passwd": "libvirt-qemu:x:64055:64055::/var/lib/libvirt:/usr/sbin/nologin\n",
    "group": "libvirt-qemu:x:64055:\n",
}


class HostProcess(subprocess.Popen[bytes]):
    """A process inside a host. It is the child of the process that entered the host, and signals go to it."""

    def __init__(self, command: list[str], group: Group, **options: Any) -> None:
        self._group = group
        super().__init__(command, **options)

    @property
    def inner(self) -> int | None:
        """The process's number outside the host; None before it has started and after it has ended."""
        return processes.child_of(self.pid, self._group.pids())

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            processes.signal_pid(self.inner or self.pid, signal.Signals(sig))


class Host:
    """A host that was booted. ``on_start`` is called for each process that is started in it, with its name."""

    def __init__(
        self, spec: HostSpec, init: Process, group: Group, on_start: Callable[[str, "Host", HostProcess], None]
    ) -> None:
        self.spec = spec
        self.init = init
        self.group = group
        self._on_start = on_start
        self._connection: Any = None

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def address(self) -> str:
        return self.spec.address

    @property
    def uri(self) -> str:
        return self.spec.uri

    @property
    def uuid(self) -> str:
        return self.spec.uuid

    @property
    def folder(self) -> Path:
        """The host's private folder on this machine: etc, lib, log, cache (libvirt's own) and run."""
        return folder_of(self.spec)

    def console(self, domain: str) -> Path:
        """The serial console of a domain that runs here, as a Unix socket."""
        return self.folder / Path(CONSOLES).relative_to("/") / domain

    def monitor(self, domain: str) -> Path:
        """The monitor of a domain that runs here, beside libvirt's own, as a Unix socket (qmp.py)."""
        return self.console(domain + MONITOR)

    def entering(self, command: Sequence[str]) -> list[str]:
        """The command that enters the host's cgroup and namespaces and runs ``command`` there."""
        namespaces = ["--mount", "--uts", "--ipc", "--net", "--pid"]
        return self.group.joining(["nsenter", f"--target={self.init.pid}", *namespaces, "--wd=/", "--", *command])

    def popen(self, command: Sequence[str], name: str | None = None, **options: Any) -> HostProcess:
        """Starts a process inside the host and records it under a name; ``down`` ends it.

        What it prints goes to logs/HOST-NAME.log in the lab's folder unless ``stdout`` or ``stderr`` is given. Its
        numbers for itself are those of the host's own process namespace; ``pid``, ``wait`` and signals work as with any
        Popen.
        """
        name = name or Path(command[0]).name
        with open_log(f"{self.name}-{name}") as log:
            options = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log, "start_new_session": True, **options}
            process = HostProcess(self.entering(command), self.group, **options)
        self._on_start(name, self, process)
        return process

    def run(self, command: Sequence[str], **options: Any) -> subprocess.CompletedProcess[Any]:
        """Runs a command inside the host to its end, like subprocess.run."""
        return subprocess.run(self.entering(command), **{"check": True, **options})

    def connection(self) -> Any:
        """A libvirt connection (virConnect) to this host over the lab's network; opened again if it broke."""
        if self._connection is None or not self._connection.isAlive():
            self._connection = connect(self.uri)
        return self._connection

    def disconnect(self) -> None:
        if self._connection is not None:
            with suppress(libvirt.libvirtError):  # its libvirtd is dead, and so is the connection
                self._connection.close()
            self._connection = None

    def start_libvirtd(self) -> None:
        """Starts the host's libvirtd and waits until it answers."""
        daemon = self.popen(["libvirtd", "--listen"], name="libvirtd")

        def answers() -> bool:
            if daemon.poll() is not None:
                raise LabError(f"libvirtd of {self.name} ended at once: {last_words(f'{self.name}-libvirtd')}")
            try:
                socket.create_connection((self.address, LIBVIRT_PORT), 1).close()
            except OSError:
                return False
            return True

        processes.wait_until(answers, 60, f"libvirtd of {self.name} answers at {self.address}:{LIBVIRT_PORT}", 0.05)


def connect(uri: str) -> Any:
    """Opens libvirt at this address; raises LabError if it does not answer."""
    try:
        return libvirt.open(uri)
    except libvirt.libvirtError as error:
        raise LabError(f"{uri}: {error}") from None


def folder_of(spec: HostSpec) -> Path:
    return state.FOLDER / spec.name


def log_of(name: str) -> Path:
    """Where the output of a process goes that was started under this name."""
    return LOGS / f"{name}.log"


def last_words(name: str) -> str:
    """The last line of a process's output."""
    lines = log_of(name).read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it gave no reason"


def open_log(name: str) -> IO[bytes]:
    LOGS.mkdir(exist_ok=True)
    return log_of(name).open("ab")


def prepare(spec: HostSpec) -> None:
    """Makes the host's private folder: configuration, and what its guests boot."""
    own = folder_of(spec)
    for name in ("etc", "accounts", "lib/boot", "log", "cache", "run/consoles"):
        (own / name).mkdir(parents=True)
    facts = {"uuid": spec.uuid, "address": spec.address, "port": LIBVIRT_PORT}
    (own / "etc" / "libvirtd.conf").write_text(_LIBVIRTD.format(**facts))
    (own / "etc" / "qemu.conf").write_text(_QEMU.format(**facts))
    for file, line in _ACCOUNTS.items():
        known = Path("/etc", file).read_text()
        (own / "accounts" / file).write_text(known if "\nlibvirt-qemu:" in known else known + line)
    shutil.copyfile(artefacts.kernel(), own / "lib" / "boot" / "kernel")
    shutil.copyfile(artefacts.initramfs(), own / "lib" / "boot" / "initramfs")


def boot(spec: HostSpec, group: Group) -> tuple[Process, subprocess.Popen[bytes]]:
    """Starts the host's first process in namespaces of its own; it lives until the host is killed.

    Returns that process and the child of this program which waits for it.
    """
    own = folder_of(spec)
    with as_file(files("virtpoise_lab").joinpath("host", "boot.sh")) as script, open_log(f"{spec.name}-boot") as log:
        arguments = [spec.name, str(own), str(LXCFS_MOUNT), str(group.pressure or "")]
        init = subprocess.Popen(
            group.joining(
                ["unshare", "--mount", "--uts", "--ipc", "--net", "--pid", "--fork", "bash", str(script), *arguments]
            ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )
    assert init.stdout is not None
    with init.stdout as output:
        pid = output.readline().strip()
    if not pid:
        init.wait()
        raise LabError(f"{spec.name} does not boot: {last_words(f'{spec.name}-boot')}")
    return processes.process(int(pid)), init


def plug_in(spec: HostSpec, init: Process, switch: Process) -> None:
    """Connects the host to the group's switch: eth0 there, a port of the bridge that its domains' cards join too."""
    port = f"vp-{spec.name}"
    ip(switch, f"link add {port} type veth peer name eth0 netns {init.pid}", f"link set {port} master switch up")
    ip(
        init,
        "link set lo up",
        f"link add {BRIDGE} address 02:76:70:00:00:{spec.number:02x} type bridge",
        f"link set eth0 master {BRIDGE} up",
        f"addr add {spec.address}/24 dev {BRIDGE}",
        f"link set {BRIDGE} up",
    )


def ip(where: Process | None, *commands: str) -> None:
    """Runs ip(8) commands in the network namespace of a process; None is this machine's own."""
    enter = [] if where is None else ["nsenter", f"--target={where.pid}", "--net"]
    result = subprocess.run(
        [*enter, "ip", "-batch", "-"], input="\n".join(commands), text=True, capture_output=True, check=False
    )
    if result.returncode:
        raise LabError(f"ip {commands[0]}: {result.stderr.strip().splitlines()[0]}")
