"""Runs docker-compose.yml with podman until its balancer has moved a domain between two host containers.

Started by scripts/test-compose. No image is pulled: the base is made with debootstrap, Prometheus and Alertmanager come
from Debian's packages, in images that a second compose file names. Grafana is left out, since it has no package. podman
works in a storage of its own, so that no container, image, volume or network of this machine is touched.
"""

from __future__ import annotations

import argparse
import fcntl
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from virtpoise_lab import cgroups
from virtpoise_lab.host import Host
from virtpoise_lab.lab import Lab
from virtpoise_lab.model import DomainSpec

ROOT = Path(__file__).parents[2]
RUN = Path("/run/virtpoise-compose")
IP_FORWARD = Path("/proc/sys/net/ipv4/ip_forward")
AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")
HOSTS = ("h1", "h2")
BASE = "localhost/virtpoise-test/base:1"
STANDINS = {"prometheus": "prometheus", "alertmanager": "prometheus-alertmanager"}
SERVICES = (*HOSTS, *STANDINS, "balancer")
PROMETHEUS = "http://127.0.0.1:9090"
ALERTMANAGER = "http://127.0.0.1:9093"
BALANCER = "http://127.0.0.1:9808"
BUSY = ("vm1", 40)  # on top of vm2's 20 % and vm3's 10 %
TOLD = 0.7  # of h1's CPU, so that it is past its threshold
THRESHOLD = 0.6
PARENT = "libpod_parent"  # podman's group of all its containers
READY_SECONDS = 400.0
CYCLES = 40  # of the balancer: 160 s, or longer on a machine that is slow
SILENT_SECONDS = 120.0  # for which the balancer may be without a cycle

_CONTAINERS_CONF = """\
[containers]
default_ulimits = ["nofile=10000:10000", "nproc=10000:10000"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
lock_type = "file"
runtime = "runc"
tmp_dir = "{run}/podman"
[network]
network_backend = "netavark"
network_config_dir = "{run}/networks"
"""

_STORAGE_CONF = """\
[storage]
driver = "overlay"
graphroot = "{storage}"
runroot = "{run}/storage"
"""


class Failure(Exception):
    """What was expected did not happen; the text is for the user."""


def say(text: str) -> None:
    sys.stdout.write(f"{time.monotonic() - BEGAN:6.1f} s  {text}\n")
    sys.stdout.flush()


def complain(text: str) -> None:
    sys.stderr.write(f"test-compose: {text}\n")


class Podman:
    """podman and podman-compose over a storage of their own, below `cache`."""

    def __init__(self, cache: Path) -> None:
        self.storage = cache / "storage"
        self._cache = cache
        self._environment = {
            **os.environ,
            "CONTAINERS_CONF": str(RUN / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(RUN / "storage.conf"),
            "DISABLE_HC_SYSTEMD": "true",  # checks are made here, by hand: podman would have systemd make them
            "PODMAN_COMPOSE_WARNING_LOGS": "false",
        }

    def prepare(self) -> None:
        RUN.mkdir()
        (RUN / "containers.conf").write_text(_CONTAINERS_CONF.format(run=RUN))
        (RUN / "storage.conf").write_text(_STORAGE_CONF.format(run=RUN, storage=self.storage))
        images = {"services": {name: {"image": standin(name)} for name in STANDINS}}
        (RUN / "standins.yml").write_text(json.dumps(images))
        for name, text in machine_settings().items():
            (RUN / name).write_text(text)

    def __call__(self, *arguments: str, check: bool = True, quiet: bool = False) -> str:
        """One podman command; what it prints."""
        return self._run(["podman", *arguments], check, quiet)

    def compose(self, *arguments: str, check: bool = True) -> str:
        files = ["--file", str(ROOT / "docker-compose.yml"), "--file", str(RUN / "standins.yml")]
        return self._run([sys.executable, "-m", "podman_compose", *files, *arguments], check)

    def _run(self, command: list[str], check: bool, quiet: bool = False) -> str:
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, check=False, cwd=ROOT)
        if check and done.returncode:
            words = (done.stderr or done.stdout).strip().splitlines()[-25:]
            raise Failure(f"{' '.join(command)[:200]}: exit status {done.returncode}\n" + "\n".join(words))
        return done.stdout if done.returncode == 0 or not quiet else ""

    def container(self, service: str) -> str:
        return f"virtpoise_{service}_1"

    def execute(self, service: str, *command: str) -> str:
        return self("exec", self.container(service), *command)

    def healthy(self, service: str) -> bool:
        """The container's own health check, made now."""
        command = ["podman", "healthcheck", "run", self.container(service)]
        return subprocess.run(command, env=self._environment, capture_output=True, check=False).returncode == 0

    def logs(self, container: str, lines: int = 15) -> str:
        """The first and the last words of a container, each run of equal lines shown once."""
        command = ["podman", "logs", container]
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, check=False)
        told = [line for line, _ in itertools.groupby((done.stdout + done.stderr).strip().splitlines())]
        return "\n".join(told if len(told) <= 2 * lines else [*told[:lines], "...", *told[-lines:]])

    def remove_all(self, *, keep_images: bool) -> None:
        """Ends and removes every container, network and volume of this storage, and the storage itself."""
        if not (RUN / "storage.conf").exists():
            return
        self("pod", "rm", "--all", "--force", "--time=5", check=False)
        self("rm", "--all", "--force", "--volumes", "--time=5", check=False)
        self("volume", "prune", "--force", check=False)
        for name in self("network", "ls", "--format={{.Name}}", check=False).split():
            if name != "podman":
                self("network", "rm", "--force", name, check=False)
        for folder in (self.storage / "overlay", RUN / "storage"):
            subprocess.run(["umount", "--quiet", str(folder)], capture_output=True, check=False)
        restore_machine_settings({name: (RUN / name).read_text() for name in machine_settings()})
        with suppress(FileNotFoundError):  # there was no container
            cgroups.weigh(cgroups.mounted(), 1, PARENT)
        if not keep_images:
            shutil.rmtree(self.storage, ignore_errors=True)
        shutil.rmtree(RUN, ignore_errors=True)
        if RUN.exists() or (self.storage.exists() and not keep_images):
            raise Failure(f"{RUN} or {self.storage} could not be removed: something still uses it")


def machine_settings() -> dict[str, str]:
    """What podman's networks change for the whole machine, and leave so."""
    rules = subprocess.run(["iptables-save"], capture_output=True, text=True, check=True).stdout
    return {"forwarding": IP_FORWARD.read_text(), "netavark": "yes" if "NETAVARK" in rules else "no"}


def restore_machine_settings(before: dict[str, str]) -> None:
    IP_FORWARD.write_text(before["forwarding"])
    if before["netavark"] == "no":
        rules = subprocess.run(["iptables-save"], capture_output=True, text=True, check=True).stdout
        others = "".join(line for line in rules.splitlines(keepends=True) if "netavark" not in line.lower())
        subprocess.run(["iptables-restore"], input=others, text=True, check=True)


# ---- images


def standin(name: str) -> str:
    return f"localhost/virtpoise-test/{name}:1"


def make_base(podman: Podman, cache: Path) -> None:
    """Imports a Debian made with debootstrap, with the authorities that this machine trusts."""
    tree, archive = cache / "base", cache / "base.tar"
    if not archive.exists():
        say("making a Debian base with debootstrap")
        shutil.rmtree(tree, ignore_errors=True)
        log = cache / "debootstrap.log"
        with log.open("w") as output:
            done = subprocess.run(
                ["debootstrap", "--variant=minbase", "bookworm", str(tree)], stdout=output, stderr=output, check=False
            )
        if done.returncode:
            raise Failure(f"debootstrap: {log.read_text().strip().splitlines()[-1]} (see {log})")
        for cached in ("var/cache/apt", "var/lib/apt/lists"):  # as in the real image
            for file in (tree / cached).rglob("*"):
                if file.is_file():
                    file.unlink()
        (tree / "etc/apt/apt.conf.d/docker-clean").write_text('Dir::Cache::pkgcache ""; Dir::Cache::srcpkgcache "";\n')
        shutil.copyfile(AUTHORITIES, tree / "etc/machine-authorities.crt")
        unfinished = archive.with_suffix(".unfinished")
        subprocess.run(["tar", "-C", str(tree), "-cf", str(unfinished), "."], check=True)
        unfinished.rename(archive)
        shutil.rmtree(tree)
    podman("import", "--quiet", "--change=ENV PIP_CERT=/etc/machine-authorities.crt", str(archive), BASE)


def make_base_if_missing(podman: Podman, cache: Path) -> None:
    if BASE not in podman("images", "--format={{.Repository}}:{{.Tag}}").split():
        make_base(podman, cache)


def make_image(podman: Podman, target: str) -> None:
    """Builds one target of docker/Dockerfile."""
    say(f"building the image of the {target}")
    podman("build", "--pull-never", f"--build-arg=BASE={BASE}", "--target", target,
           "--tag", f"localhost/virtpoise/{target}:0.1.0", "--file", str(ROOT / "docker" / "Dockerfile"), str(ROOT))  # fmt: skip


def make_images(podman: Podman, cache: Path) -> None:
    make_base_if_missing(podman, cache)
    for name, package in STANDINS.items():
        say(f"building a stand-in for the image of {name} out of Debian's {package}")
        arguments = {"BASE": BASE, "PACKAGE": package, "NAME": name}
        given = [f"--build-arg={key}={value}" for key, value in arguments.items()]
        podman("build", "--pull-never", *given, "--tag", standin(name), str(ROOT / "tests/compose/standins"))
    for target in ("balancer", "exporter", "demo-host"):
        make_image(podman, target)
    for line in podman("images", "--filter=dangling=false", "--format={{.Repository}}:{{.Tag}} {{.Size}}").splitlines():
        say(f"  {line}")


# ---- what is asked and waited for


def read(url: str) -> str:
    """What an HTTP address answers; Failure if it does not answer."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=5) as answer:
            return str(answer.read(), "utf-8")
    except (OSError, urllib.error.URLError, ValueError) as error:
        raise Failure(f"{url}: {error}") from None


def get(url: str) -> Any:
    """What an HTTP address answers, as JSON; Failure if it does not answer."""
    try:
        return json.loads(read(url))
    except ValueError as error:
        raise Failure(f"{url}: {error}") from None


def wait(what: str, reached: Callable[[], Any], seconds: float) -> Any:
    """Asks again and again until the answer is true; that answer. Failure past the deadline."""
    end = time.monotonic() + seconds
    problem = ""
    while time.monotonic() < end:
        try:
            if answer := reached():
                return answer
        except Failure as error:
            problem = f" ({error})"
        time.sleep(0.5)
    raise Failure(f"no {what} within {seconds:g} s{problem}")


def wait_cycles(what: str, reached: Callable[[], Any]) -> Any:
    """As ``wait``, for so long as the balancer needs for its cycles: a busy machine makes them late."""
    began, first = time.monotonic(), cycles()
    made, last = first, began
    while made - first < CYCLES:
        with suppress(Failure):  # it did not answer in time
            if answer := reached():
                return answer
            if (now := cycles()) != made:
                made, last = now, time.monotonic()
        if time.monotonic() - last > SILENT_SECONDS:
            raise Failure(f"no {what}: the balancer has ended no cycle for {SILENT_SECONDS:g} s{how_busy()}")
        time.sleep(0.5)
    took = f"{CYCLES} cycles of the balancer, which took {time.monotonic() - began:.0f} s"
    raise Failure(f"no {what} within {took}; it sees {percent(loads())}{how_busy()}")


def cycles() -> float:
    """How many cycles the balancer has ended."""
    counted = re.findall(r"^virtpoise_cycles_total{.*} (\S+)$", read(f"{BALANCER}/metrics"), re.MULTILINE)
    return sum(float(number) for number in counted)


def how_busy() -> str:
    """A remark on other work, if it is more than this machine's CPUs can do: then guests get less than they ask for."""
    waiting, cpus = os.getloadavg()[0], len(os.sched_getaffinity(0))
    if waiting <= 2 * cpus:
        return ""
    return f". {waiting:.0f} programs want this machine's {cpus} CPUs: try again when it is quiet"


def expect(condition: object, what: str) -> None:
    if not condition:
        raise Failure(f"expected {what}")
    say(f"ok: {what}")


def running(podman: Podman) -> dict[str, list[str]]:
    """The running domains of each host, as its own libvirt tells."""
    return {host: sorted(podman.execute(host, "virsh", "--quiet", "list", "--name").split()) for host in HOSTS}


def targets() -> dict[str, str]:
    """Of each target of Prometheus, such as h1:9807, its health."""
    return {t["labels"]["instance"]: t["health"] for t in get(f"{PROMETHEUS}/api/v1/targets")["data"]["activeTargets"]}


def loads() -> dict[str, float]:
    """The CPU load of each host, as the balancer saw it last."""
    return {h["name"]: h["cpu_ratio"] for h in get(f"{BALANCER}/api/v1/status")["hosts"] if h["cpu_ratio"] is not None}


def percent(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.0%}" for name, value in sorted(values.items()))


# ---- the story


def bring_up(podman: Podman) -> None:
    say(f"podman-compose up: {' '.join(SERVICES)}")
    podman.compose("up", "--detach", "--no-build", *SERVICES)
    # Without it all containers together would have the CPU time of one other program.
    cgroups.weigh(cgroups.mounted(), 50 * len(os.sched_getaffinity(0)), PARENT)
    for service in SERVICES:
        wait(f"health of {service}", partial(podman.healthy, service), READY_SECONDS)
        say(f"{service} is healthy")


def look_around(podman: Podman) -> None:
    ports = [
        port
        for service in SERVICES
        for published in json.loads(
            podman("inspect", "--format={{json .NetworkSettings.Ports}}", podman.container(service))
        ).values()
        for port in published or []
    ]
    expect(ports and {p["HostIp"] for p in ports} == {"127.0.0.1"}, f"{len(ports)} ports, all on 127.0.0.1")
    users = {service: podman.execute(service, "id", "-u").strip() for service in ("balancer", *STANDINS)}
    expect("0" not in users.values(), f"no root in balancer, Prometheus and Alertmanager: {users}")
    up = wait("scrape of every target", lambda: all(h == "up" for h in targets().values()) and targets(), READY_SECONDS)
    expect(len(up) == 5, f"Prometheus scrapes {', '.join(sorted(up))}")
    groups = get(f"{PROMETHEUS}/api/v1/rules")["data"]["groups"]
    broken = [rule["name"] for group in groups for rule in group["rules"] if rule["health"] == "err"]
    expect(groups and not broken, f"{sum(len(g['rules']) for g in groups)} rules are loaded and none fails")
    expect(get(f"{PROMETHEUS}/api/v1/alertmanagers")["data"]["activeAlertmanagers"], "Prometheus knows Alertmanager")
    expect(get(f"{ALERTMANAGER}/api/v2/status")["cluster"], "Alertmanager answers")


def look_at_the_exporter(podman: Podman) -> None:
    """The exporter's own image, against a host's libvirt over the network."""
    name = "virtpoise_exporter_alone"
    podman("run", "--detach", "--name", name, "--network=virtpoise_hosts", "--read-only", "--cap-drop=ALL",
           "localhost/virtpoise/exporter:0.1.0", "--libvirt.uri=qemu+tcp://h1/system")  # fmt: skip
    try:
        metrics = wait(
            "metrics of the exporter's image",
            lambda: "virtpoise_libvirt_up 1" in (text := metrics_of(podman, name)) and text,
            READY_SECONDS,
        )
    finally:
        podman("rm", "--force", "--time=2", name, check=False)
    domains = sorted(set(re.findall(r'virtpoise_domain_running{domain="([^"]+)"', metrics)))
    expect(domains == running(podman)["h1"], f"the exporter's image tells of h1's domains: {', '.join(domains)}")


def look_at_the_exporter_on_a_host(podman: Podman) -> None:
    """The exporter's own image on a libvirt host of the lab, with the flags of docs/compose.md: what it reads, and what
    it may not.
    """
    with Lab.up(hosts=1, domains=[DomainSpec("inside", "h1", paused=True)]) as lab:
        host = lab.host("h1")
        know_the_exporters_user(host)
        place = [f"--pid=ns:/proc/{host.init.pid}/ns/pid", f"--network=ns:/proc/{host.init.pid}/ns/net", "--read-only"]
        place += ["-v", f"{host.folder}/run/libvirt:/run/libvirt:ro"]
        with started(podman, [*place, "--cap-drop=ALL", "--security-opt=no-new-privileges"]) as name:
            usage = 'virtpoise_domain_cpu_seconds_total{domain="inside"'
            metrics = wait(
                "usage of the domain", lambda: usage in (text := metrics_of(podman, name)) and text, READY_SECONDS
            )
            expect("virtpoise_libvirt_up 1" in metrics, "the exporter's image reads the host's libvirt")
            found = attempts(podman, name)
            expect(len(found) > 4 and set(found) <= REFUSED, f"it can read no file of the host: {found}")
    look_at_former_rights(podman)


def know_the_exporters_user(host: Host) -> None:
    """As docs/compose.md has it made on the host: libvirtd refuses clients of a user that it does not know."""
    for file, line in (("passwd", "10807:10807::/nonexistent:/usr/sbin/nologin"), ("group", "10807:")):
        known = Path("/etc", file).read_text()
        (host.folder / "run" / file).write_text(f"{known}virtpoise-exporter:x:{line}\n")
        host.run(["mount", "--bind", f"/run/{file}", f"/etc/{file}"])


def look_at_former_rights(podman: Podman) -> None:
    """That the attempts are worth something: with the rights that docs/compose.md once gave, one succeeds."""
    with started(
        podman, ["--pid=host", "--network=none", "--user=0", "--cap-drop=ALL", "--cap-add=DAC_READ_SEARCH"]
    ) as name:
        found = attempts(podman, name)
        expect("read" in found, f"as root with DAC_READ_SEARCH it can: {found}")


@contextmanager
def started(podman: Podman, flags: list[str]) -> Iterator[str]:
    name = "virtpoise_exporter_on_a_host"
    podman("run", "--detach", "--name", name, *flags, "localhost/virtpoise/exporter:0.1.0")
    try:
        yield name
    except Failure:
        sys.stderr.write(f"--- {name}\n{podman.logs(name)}\n")
        raise
    finally:
        podman("rm", "--force", "--time=2", name, check=False)


def metrics_of(podman: Podman, name: str) -> str:
    ask = (
        "from urllib.request import urlopen; print(urlopen('http://127.0.0.1:9807/metrics', timeout=5).read().decode())"
    )
    return podman("exec", name, "python3", "-c", ask)


REFUSED = {"permission denied", "operation not permitted"}
# What somebody who broke into the exporter would try: files of the host, by the folders of its first process and of
# each QEMU; and any file of a filesystem that a volume lies on, by its number (open_by_handle_at).
ATTEMPT = """
import ctypes, os
from pathlib import Path
found = []
def attempt(read):
    try:
        read()
        found.append("read")
    except OSError as error:
        found.append(error.strerror.lower())
def by_number():
    libc, handle = ctypes.CDLL(None, use_errno=True), (ctypes.c_uint * 4)(8, 1, 2, 0)
    if libc.open_by_handle_at(os.open("/", os.O_RDONLY), handle, os.O_RDONLY) < 0 and ctypes.get_errno() == 1:
        raise PermissionError(1, os.strerror(1))
def name(process):
    try:
        return (process / "comm").read_text()
    except OSError:  # it has ended
        return ""
qemu = [one.name for one in Path("/proc").glob("[0-9]*") if name(one).startswith("qemu")]
for process in ("1", *qemu):
    attempt(lambda: Path("/proc", process, "root/etc/shadow").read_bytes())
    attempt(lambda: list(Path("/proc", process, "root/root").iterdir()))
    attempt(lambda: Path("/proc", process, "environ").read_bytes())
attempt(by_number)
print("\\n".join(found))
"""


def attempts(podman: Podman, name: str) -> list[str]:
    """How each attempt ended: ``read``, or why not."""
    return podman("exec", name, "python3", "-c", ATTEMPT).split("\n")[:-1]


def balance(podman: Podman) -> None:
    before = running(podman)
    say(f"domains: {before}")
    # Guests that have just booted are still busy with it: what is decided is to be decided on the loads that they were
    # told.
    seen = wait_cycles(
        "calm on both hosts", lambda: len(found := loads()) == 2 and max(found.values()) < 0.45 and found
    )
    say(f"the balancer sees {percent(seen)}")
    name, load = BUSY
    said = podman.execute("h1", "guest", "load", name, str(load)).strip()
    say(f"{said} from now on: h1 is to be {TOLD:.0%} busy, and its threshold is {THRESHOLD:.0%}")
    ended = wait_cycles("migration", lambda: [m for m in get(f"{BALANCER}/api/v1/history") if m["result"]])
    move = ended[0]
    expect(
        move["result"] == "done",
        f"the balancer migrated {move['domain']} from {move['source']} to {move['destination']}",
    )
    after = running(podman)
    expect(
        move["domain"] in after[move["destination"]] and move["domain"] not in after[move["source"]],
        f"both hosts' libvirt agree: {after}",
    )
    say("measuring what it left")
    judged = wait_cycles(
        "verdict on each prediction",
        lambda: (record := history_of(move)) and all(p["verdict"] for p in record["predictions"]) and record,
    )
    for p in judged["predictions"]:
        measured = "nothing" if p["measured"] is None else f"{p['measured']:.0%}"
        say(f"  {p['host']} ({p['role']}): predicted {p['predicted']:.0%}, measured {measured}: {p['verdict']}")
    settled = wait_cycles(
        "end of the overload", lambda: len(found := loads()) == 2 and max(found.values()) < THRESHOLD and found
    )
    expect(len(settled) == 2, f"both hosts are below {THRESHOLD:.0%}: {percent(settled)}")


def history_of(move: dict[str, Any]) -> Any:
    return next((m for m in get(f"{BALANCER}/api/v1/history") if m["began"] == move["began"]), None)


def restart_a_host(podman: Podman) -> None:
    """A domain that has moved away does not come back to life where it was when that host starts again."""
    before = running(podman)
    say("starting h1 again")
    podman("restart", "--time=5", podman.container("h1"))
    wait("health of h1", lambda: podman.healthy("h1"), READY_SECONDS)
    expect(running(podman) == before, f"after a restart of h1 every domain runs once, where it was: {before}")
    wait("fresh figures of h1", lambda: targets().get("h1:9807") == "up", READY_SECONDS)


@contextmanager
def telling_why(podman: Podman) -> Iterator[None]:
    """On a failure, what every container said."""
    try:
        yield
    except Failure:
        for service in SERVICES:
            sys.stderr.write(f"--- {service}\n{podman.logs(podman.container(service))}\n")
        raise


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/test-compose",
        description="Builds the images of docker-compose.yml and runs the stack with podman until its balancer has moved a "
        "domain between two host containers, then removes all of it. Takes about ten minutes the first time. Prometheus "
        "and Alertmanager come from Debian's packages; Grafana is left out, since it has no package.",
    )
    parser.add_argument("--cache", type=Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument(
        "--exporter", action="store_true", help="only the exporter's image, on a libvirt host of the lab"
    )
    parser.add_argument("--keep-images", action="store_true", help="leave the images for a faster next run")
    given = parser.parse_args(arguments)
    podman = Podman(given.cache)
    lock = (given.cache / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        complain("another run is under way")
        return 2
    try:
        podman.remove_all(keep_images=True)  # what a run that was killed has left
        podman.prepare()
        if given.exporter:
            make_base_if_missing(podman, given.cache)
            make_image(podman, "exporter")
            look_at_the_exporter_on_a_host(podman)
            say("the exporter's image works, and reads no more than it needs")
            return 0
        make_images(podman, given.cache)
        with telling_why(podman):
            bring_up(podman)
            look_around(podman)
            look_at_the_exporter(podman)
            balance(podman)
            restart_a_host(podman)
        say("the stack works")
    except Failure as error:
        complain(str(error))
        return 1
    except KeyboardInterrupt:
        complain("stopped")
        return 130
    else:
        return 0
    finally:
        say("cleaning up")
        podman.remove_all(keep_images=given.keep_images)


BEGAN = time.monotonic()

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
