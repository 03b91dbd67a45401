"""The command `virtpoise-exporter`: flags in the exporters' idiom, one line and exit status 2 for a wrong one."""

import argparse
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from virtpoise_exporter import __version__
from virtpoise_exporter.errors import UsageError
from virtpoise_exporter.log import FORMATS, LEVELS, configure, log

DEFAULT_ADDRESS: Final = "127.0.0.1:9807"
HOST_COLLECTORS: Final = ("cpu", "memory", "network", "pressure")
COLLECTORS: Final = (*HOST_COLLECTORS, "libvirt", "domains")


@dataclass(frozen=True, slots=True)
class Options:
    """The flags, checked."""

    addresses: tuple[tuple[str, int], ...]
    web_config: Path | None
    uri: str
    procfs: Path
    sysfs: Path
    collectors: tuple[str, ...]
    log_level: str
    log_format: str


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see --help)")


def parse_options(arguments: list[str]) -> Options:
    """The options for `arguments`. Raises UsageError."""
    parser = _Parser(
        prog="virtpoise-exporter",
        description="Prometheus exporter for a libvirt host and its domains.",
        allow_abbrev=False,
    )
    flag = parser.add_argument
    flag(
        "--web.listen-address",
        action="append",
        metavar="ADDRESS",
        help=f"host:port to serve on, repeatable (default {DEFAULT_ADDRESS})",
    )
    flag(
        "--web.config.file",
        metavar="FILE",
        help="TLS and basic authentication, as Prometheus exporter-toolkit has them",
    )
    flag("--libvirt.uri", default="qemu:///system", metavar="URI", help="which libvirt to ask (default %(default)s)")
    flag("--path.procfs", default="/proc", metavar="FOLDER", help="where /proc is (default %(default)s)")
    flag("--path.sysfs", default="/sys", metavar="FOLDER", help="where /sys is (default %(default)s)")
    flag(
        "--no-collector.host", action="store_true", help="leave out all figures of the host, as node_exporter has them"
    )
    for name in COLLECTORS:
        flag(f"--no-collector.{name}", action="store_true", help=f"leave out the collector {name}")
    flag("--log.level", default="info", choices=LEVELS, help="least level to log (default %(default)s)")
    flag("--log.format", default="logfmt", choices=FORMATS, help="form of a log line (default %(default)s)")
    flag("--version", action="version", version=f"virtpoise-exporter {__version__}")
    given = vars(parser.parse_args(arguments))
    off = {name for name in COLLECTORS if given[f"no_collector.{name}"]}
    if given["no_collector.host"]:
        off.update(HOST_COLLECTORS)
    return Options(
        addresses=tuple(_address(text) for text in given["web.listen_address"] or [DEFAULT_ADDRESS]),
        web_config=Path(given["web.config.file"]) if given["web.config.file"] else None,
        uri=given["libvirt.uri"],
        procfs=_root("--path.procfs", given["path.procfs"], "stat"),
        sysfs=_root("--path.sysfs", given["path.sysfs"], "class/net"),
        collectors=tuple(name for name in COLLECTORS if name not in off),
        log_level=given["log.level"],
        log_format=given["log.format"],
    )


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdigit() or not 0 <= int(port) <= 65535:
        raise UsageError(f"--web.listen-address {text!r}: expected host:port or :port, e.g. {DEFAULT_ADDRESS}")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _root(flag: str, text: str, within: str) -> Path:
    path = Path(text)
    if not (path / within).exists():
        raise UsageError(f"{flag} {text!r}: expected a folder that holds {within}")
    return path


def main() -> None:
    """Runs the exporter until SIGTERM or SIGINT; exits with 2 if it was started wrongly."""
    try:
        run(parse_options(sys.argv[1:]))
    except UsageError as error:
        sys.stderr.write(f"virtpoise-exporter: {error}\n")
        raise SystemExit(2) from None


def run(options: Options) -> None:
    """Serves until SIGTERM or SIGINT. Raises UsageError if an address cannot be had."""
    from virtpoise_exporter.exporter import Exporter

    configure(options.log_level, "json" if options.log_format == "json" else "logfmt")
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    exporter = Exporter(options)
    exporter.start()
    received = signal.sigwait({signal.SIGTERM, signal.SIGINT})
    log.info("stopping on %s", signal.Signals(received).name)
