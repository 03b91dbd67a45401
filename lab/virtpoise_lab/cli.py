"""The lab's command line."""

import argparse
import json
import sys
from dataclasses import asdict
from typing import Any

from virtpoise_lab import ending
from virtpoise_lab.errors import LabError
from virtpoise_lab.lab import Lab
from virtpoise_lab.model import DomainSpec, Load
from virtpoise_lab.status import HostStatus

_EXAMPLES = """\
examples:
  python -m virtpoise_lab up --hosts 2 --domains 6
  python -m virtpoise_lab up --place h1=4,h2=2 --load vm1=30 --load vm2=20
  python -m virtpoise_lab up --hosts 2 --capacity 3 --domains 4   room for a third host
  python -m virtpoise_lab up --paused-domains 100                 one host, for scrape benchmarks
  python -m virtpoise_lab load vm1 70                             70 % of one CPU of its host
  python -m virtpoise_lab load vm1 20 --dirty 10 --traffic 2      and 10 MB/s of memory, 2 MB/s sent
  python -m virtpoise_lab migrate vm1 h2
  python -m virtpoise_lab add-host
  python -m virtpoise_lab exec h1 -- virsh list --all
  python -m virtpoise_lab status --output json
  python -m virtpoise_lab down

From this machine, host N is qemu+tcp://10.77.0.N/system.
exit status: 0 done, 2 not done (one line says why); `exec` ends with the status of its command.
"""


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options) or 0)
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("lab: interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="virtpoise_lab",
        description="Real libvirt hosts on one machine, each with its own address, CPU, memory and libvirtd.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    up = commands.add_parser("up", help="start a lab", epilog=_EXAMPLES, formatter_class=_Raw)
    up.add_argument("--hosts", type=int, metavar="N", help="hosts h1 to hN (default: 2, or as many as --place names)")
    what = up.add_mutually_exclusive_group()
    what.add_argument("--domains", type=int, metavar="N", help="domains vm1 to vmN, dealt to the hosts in turn")
    what.add_argument("--place", metavar="h1=4,h2=2", help="how many domains each host gets, numbered in this order")
    what.add_argument("--paused-domains", type=int, metavar="N", help="one host with N domains that never run")
    up.add_argument("--load", action="append", default=[], metavar="vm1=70", help="a domain's first CPU load, percent")
    up.add_argument("--vcpus", type=int, default=1, metavar="N", help="vCPUs of each domain (default: 1)")
    up.add_argument("--memory", type=int, default=96, metavar="MIB", help="memory of each domain (default: 96)")
    up.add_argument(
        "--host-memory", type=int, metavar="MIB", help="memory of each host (default: what fits all domains)"
    )
    up.add_argument("--capacity", type=int, metavar="N", help="divide the CPUs among N hosts (default: --hosts)")
    up.add_argument("--replace", action="store_true", help="end a lab that is up, and start a new one")
    up.set_defaults(run=_up)

    load = commands.add_parser("load", help="change the load of a running domain")
    load.add_argument("domain")
    load.add_argument("cpu", type=float, metavar="PERCENT", help="of one CPU of a host, over all vCPUs")
    load.add_argument("--kind", choices=("share", "work"), help="work: catches up on what it could not run")
    load.add_argument("--dirty", type=float, metavar="MB", help="memory written per second, 10^6 bytes")
    load.add_argument("--traffic", type=float, metavar="MB", help="sent per second, 10^6 bytes")
    load.set_defaults(run=_load)

    status = commands.add_parser("status", help="show hosts, domains and loads")
    status.add_argument("--output", choices=("table", "json"), default="table")
    status.set_defaults(run=_status)

    migrate = commands.add_parser("migrate", help="move a domain by hand")
    migrate.add_argument("domain")
    migrate.add_argument("host")
    migrate.set_defaults(run=_migrate)

    commands.add_parser("add-host", help="boot one more host").set_defaults(run=_add_host)

    execute = commands.add_parser("exec", help="run a command inside a host")
    execute.add_argument("host")
    execute.add_argument("command", nargs="+", metavar="-- COMMAND")
    execute.set_defaults(run=_exec)

    commands.add_parser("down", help="end the lab and everything it started").set_defaults(run=_down)
    return parser


_Raw = argparse.RawDescriptionHelpFormatter


def _up(options: argparse.Namespace) -> None:
    loads = dict(_assignment(text, "--load") for text in options.load)
    hosts, domains = _domains(options, loads)
    unknown = loads.keys() - {spec.name for spec in domains}
    if unknown:
        raise LabError(f"--load {sorted(unknown)[0]}: there is no such domain")
    Lab.up(
        hosts,
        domains,
        capacity=options.capacity,
        host_memory_mib=options.host_memory,
        replace_live=options.replace,
        say=lambda line: print(line, flush=True),
    )
    print(f"{len(domains)} domain{'s' * (len(domains) != 1)}; `python -m virtpoise_lab status` shows them")


def _domains(options: argparse.Namespace, loads: dict[str, float]) -> tuple[int, list[DomainSpec]]:
    """How many hosts, and the domains to start on them."""
    counts: list[tuple[str | None, int]] = [(None, options.domains or 0)]
    least = 1
    if options.paused_domains:
        counts = [("h1", options.paused_domains)]
    elif options.place:
        pairs = [_assignment(part, "--place") for part in options.place.split(",")]
        for host, count in pairs:
            if not count.is_integer():  # neither are nan and inf
                raise LabError(f"--place {host}={count:g}: expected a whole number of domains")
        counts = [(host, int(count)) for host, count in pairs]
        least = max(int(host[1:]) if host[1:].isdecimal() else 1 for host, _ in pairs)
    elif options.hosts is None:
        least = 2
    for _, count in counts:
        if not 0 <= count <= 1000:
            raise LabError(f"domains {count}: expected 0 to 1000")
    homes = [host for host, count in counts for _ in range(count)]
    names = [f"vm{number}" for number in range(1, len(homes) + 1)]
    paused = bool(options.paused_domains)
    return options.hosts or least, [
        DomainSpec(name, home, Load(loads.get(name, 0.0)), options.vcpus, options.memory, paused)
        for name, home in zip(names, homes, strict=True)
    ]


def _assignment(text: str, option: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        return name, float(value)
    except ValueError:
        raise LabError(f"{option} {text}: expected NAME=NUMBER") from None


def _load(options: argparse.Namespace) -> None:
    taken = Lab.attach().load(
        options.domain, options.cpu, kind=options.kind, dirty=options.dirty, traffic=options.traffic
    )
    print(f"{options.domain}: {_describe(taken)}")


def _status(options: argparse.Namespace) -> None:
    lab = Lab.attach()
    now, hosts = lab.state, lab.status()
    if options.output == "json":
        domains = [{**asdict(d), "uuid": d.uuid, "host": _home(d.name, hosts)} for d in now.domains]
        answer = {"acceleration": now.acceleration, "host_cpus": now.share, "hosts": [asdict(h) for h in hosts]}
        print(json.dumps({**answer, "domains": domains}, indent=1))
        return
    rows = [("HOST", "URI", "CPU", "MEMORY", "DOMAINS")]
    for host in hosts:
        count = str(len(host.domains)) if host.libvirt else "libvirtd does not answer"
        rows.append((host.name, host.uri, _percent(host.cpu_ratio), _percent(host.memory_ratio), count))
    _print_table(rows)
    shown = [d for d in now.domains if not d.paused]
    if shown:
        print()
        rows = [("DOMAIN", "HOST", "VCPUS", "MEMORY", "LOAD")]
        for d in shown:
            home = _home(d.name, hosts) or "-"
            rows.append((d.name, home, str(d.vcpus), f"{d.memory_mib} MiB", _describe(d.load)))
        _print_table(rows)
    print(f"\nguests run with {now.acceleration.upper()}; each host has {now.share:.3g} CPU")


def _home(domain: str, hosts: tuple[HostStatus, ...]) -> str | None:
    return next((host.name for host in hosts if domain in host.domains), None)


def _migrate(options: argparse.Namespace) -> None:
    source = Lab.attach().migrate(options.domain, options.host)
    print(f"{options.domain}: {source} -> {options.host}")


def _add_host(_options: argparse.Namespace) -> None:
    host = Lab.attach().add_host()
    print(f"{host.name}: {host.uri}")


def _exec(options: argparse.Namespace) -> int:
    return Lab.attach().host(options.host).run(options.command, check=False).returncode


def _down(_options: argparse.Namespace) -> None:
    print("the lab is down" if ending.down() else "no lab was up")


def _describe(load: Load) -> str:
    parts = [f"{load.cpu:g} % CPU{' (work)' if load.kind == 'work' else ''}"]
    parts += [f"{load.dirty:g} MB/s dirtied"] if load.dirty else []
    parts += [f"{load.traffic:g} MB/s sent"] if load.traffic else []
    return ", ".join(parts)


def _percent(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.0%}"


def _print_table(rows: list[Any]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
