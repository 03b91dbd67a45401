"""The exporter's flags, named as in other exporters and checked before anything starts."""

import argparse
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn

from virtpoise_exporter import __version__
from virtpoise_exporter.collectors import TOPICS
from virtpoise_exporter.errors import UsageError
from virtpoise_exporter.kernel.topology import BYTES_PER_MEGABIT
from virtpoise_exporter.log import FORMATS, LEVELS

_DEFAULT_ADDRESS = "127.0.0.1:9807"

EXAMPLES = (
    "virtpoise-exporter --web.listen-address :9807",
    "virtpoise-exporter --web.config.file /etc/virtpoise/web.yml --network.speed eth0=10000",
    "virtpoise-exporter --libvirt.uri qemu+tcp://h1/system --no-collector.host",
)
_EPILOG = "examples:\n" + "".join(f"  {example}\n" for example in EXAMPLES)


@dataclass(frozen=True, slots=True)
class Options:
    """The flags. ``speeds`` are bytes per second of a device; ``cpu_speed`` is None if it is to be measured."""

    addresses: tuple[tuple[str, int], ...]
    web_config: Path | None
    uri: str
    procfs: Path
    sysfs: Path
    state: Path
    collectors: tuple[str, ...]
    speeds: Mapping[str, float]
    cpu_speed: float | None
    log_level: str
    log_format: Literal["logfmt", "json"]


class _Once(argparse.Action):
    """Takes a flag's value, once: a second one would silently take its place, even of a file of passwords."""

    _given = False

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        if self._given:
            parser.error(f"{option_string}: expected once")
        self._given = True
        setattr(namespace, self.dest, values)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see --help)")


def parse_options(arguments: list[str]) -> Options:
    """The options for ``arguments``. Raises UsageError."""
    given = vars(_parser().parse_args(arguments))
    off = {topic.name for topic in TOPICS if given[f"no_collector.{topic.name}"]}
    if given["no_collector.host"]:
        off.update(topic.name for topic in TOPICS if topic.host)
    return Options(
        addresses=tuple(_address(text) for text in given["web.listen_address"] or [_DEFAULT_ADDRESS]),
        web_config=_file("--web.config.file", given["web.config.file"]),
        uri=_uri(given["libvirt.uri"]),
        procfs=_root("--path.procfs", given["path.procfs"], "stat"),
        sysfs=_root("--path.sysfs", given["path.sysfs"], "class/net"),
        state=Path(given["path.state"]),
        collectors=tuple(topic.name for topic in TOPICS if topic.name not in off),
        speeds=_speeds(given["network.speed"]),
        cpu_speed=_ratio(given["cpu.speed"]),
        log_level=given["log.level"],
        log_format="json" if given["log.format"] == "json" else "logfmt",
    )


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="virtpoise-exporter",
        description="Prometheus exporter for a libvirt host and its domains.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.register("action", None, _Once)
    flag = parser.add_argument
    flag(
        "--web.listen-address",
        action="append",
        metavar="ADDRESS",
        help=f"host:port to serve on, or :port for all addresses; repeatable (default {_DEFAULT_ADDRESS})",
    )
    flag("--web.config.file", metavar="FILE", help="TLS and basic authentication, in the format of exporter-toolkit")
    flag(
        "--libvirt.uri",
        default="qemu:///system",
        metavar="URI",
        help="libvirt connection to read (default %(default)s)",
    )
    flag("--path.procfs", default="/proc", metavar="FOLDER", help="where /proc is (default %(default)s)")
    flag("--path.sysfs", default="/sys", metavar="FOLDER", help="where /sys is (default %(default)s)")
    flag(
        "--path.state",
        default="/var/lib/virtpoise-exporter",
        metavar="FOLDER",
        help="where the measured speed of the CPU is kept (default %(default)s)",
    )
    flag(
        "--network.speed",
        action="append",
        default=[],
        metavar="DEVICE=MEGABITS",
        help="speed in Mbit/s of an uplink that does not report one; repeatable",
    )
    flag("--cpu.speed", metavar="RATIO", help="speed of one CPU relative to the reference, instead of measuring it")
    flag(
        "--no-collector.host",
        action="store_true",
        help=f"the same as --no-collector.X for {', '.join(topic.name for topic in TOPICS if topic.host)}",
    )
    for topic in TOPICS:
        flag(f"--no-collector.{topic.name}", action="store_true", help=f"switch off: {topic.title}")
    flag("--log.level", default="info", choices=LEVELS, help="lowest level to log (default %(default)s)")
    flag("--log.format", default="logfmt", choices=FORMATS, help="format of log lines (default %(default)s)")
    flag("--version", action="version", version=f"virtpoise-exporter {__version__}")
    return parser


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not port.isdecimal() or int(port) > 65535 or (":" in host and not bracketed):
        raise UsageError(f"--web.listen-address {text!r}: expected host:port or :port, e.g. {_DEFAULT_ADDRESS}")
    return host[1:-1] if bracketed else host, int(port)


def _uri(text: str) -> str:
    if not re.match(r"[a-z][a-z0-9+.-]*://", text):
        raise UsageError(
            f"--libvirt.uri {text!r}: expected an address such as qemu:///system or qemu+tcp://HOST/system"
        )
    return text


def _file(flag: str, text: str | None) -> Path | None:
    if text == "":  # of a variable that is not set, in a unit or a script
        raise UsageError(f"{flag} '': expected a file")
    return None if text is None else Path(text)


def _root(flag: str, text: str, within: str) -> Path:
    path = Path(text)
    try:
        (path / within).stat()
    except OSError as error:
        raise UsageError(f"{flag} {text!r}: expected a folder that holds {within}: {error.strerror}") from None
    return path


def _speeds(texts: list[str]) -> dict[str, float]:
    speeds: dict[str, float] = {}
    for device, speed in map(_device_speed, texts):
        if device in speeds:
            raise UsageError(f"--network.speed {device}: expected once")
        speeds[device] = speed
    return speeds


def _device_speed(text: str) -> tuple[str, float]:
    device, equals, megabits = text.partition("=")
    if not device or not equals or not _positive(megabits):
        raise UsageError(f"--network.speed {text!r}: expected DEVICE=MEGABITS, e.g. eth0=10000")
    return device, float(megabits) * BYTES_PER_MEGABIT


def _ratio(text: str | None) -> float | None:
    if text is None:
        return None
    if not _positive(text):
        raise UsageError(f"--cpu.speed {text!r}: expected a number above 0, e.g. 1.25")
    return float(text)


def _positive(text: str) -> bool:
    try:
        number = float(text)
    except ValueError:
        return False
    return math.isfinite(number) and number > 0
