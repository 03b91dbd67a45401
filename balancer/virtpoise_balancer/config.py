"""The configuration file: one typed schema, read from YAML, refused with one line that names the key and what was expected.

What each key means is told in virtpoise.example.yml, from which docs/configuration.md is made.
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from virtpoise_balancer.errors import BadInput
from virtpoise_balancer.formats import first_problem
from virtpoise_balancer.model import InconsistentPolicy, Policy, check_policy
from virtpoise_balancer.monitor.queries import QUERIES

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def _http_url(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    if scheme not in ("http", "https") or not separator or not rest.strip("/"):
        raise ValueError("an address like http://127.0.0.1:9090")
    return url.rstrip("/")


def _host_template(uri: str) -> str:
    if uri.count("{host}") != 1 or "{" in uri.replace("{host}", ""):
        raise ValueError("a libvirt address with {host} in it once, like qemu+ssh://{host}/system")
    return uri


def _external_url(url: str) -> str:
    url = _http_url(url)
    parts = urlsplit(url)
    if parts.scheme != "https" and not _loopback(parts.hostname or ""):
        raise ValueError("an https address (or one of this machine's own), since tokens are sent there")
    return url


def _loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _database_url(url: str) -> str:
    # A file, and nothing else: the lock of the balancer that acts lies beside it.
    if not re.fullmatch(r"sqlite:////[^?]*[^?/]", url):
        raise ValueError("a file of SQLite by its whole path, like sqlite:////var/lib/virtpoise/virtpoise.db")
    return url


def _listen_address(address: str) -> str:
    host, separator, port = address.rpartition(":")
    if not separator or not host or not port.isdigit() or int(port) > 65535:
        raise ValueError("an address and a port like 127.0.0.1:9808")
    return address


def _known_queries(queries: dict[str, str]) -> dict[str, str]:
    for name in queries:
        if name not in QUERIES:
            raise ValueError(f"names of queries ({', '.join(sorted(QUERIES))}); {name!r} is none")
    return queries


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Prometheus(Section):
    """Where the figures come from."""

    url: Annotated[str, AfterValidator(_http_url)] = "http://127.0.0.1:9090"
    timeout_seconds: Seconds = 5.0
    scrape_interval_seconds: Seconds | None = None
    exporter_port: Annotated[int, Field(ge=1, le=65535)] = 9807
    token_file: Path | None = None
    ca_file: Path | None = None
    queries: Annotated[dict[str, str], AfterValidator(_known_queries)] = Field(default_factory=dict)


class Libvirt(Section):
    """How the balancer, and the hosts among themselves, reach a host."""

    uri: Annotated[str, AfterValidator(_host_template)] = "qemu+ssh://{host}/system"
    hosts: dict[str, str] = Field(default_factory=dict)
    connect_timeout_seconds: Seconds = 10.0

    def uri_of(self, host: str) -> str:
        return self.hosts.get(host) or self.uri.replace("{host}", host)


class StateStore(Section):
    """What the balancer remembers."""

    url: Annotated[str, AfterValidator(_database_url)] = "sqlite:////var/lib/virtpoise/virtpoise.db"
    keep_days: Annotated[int, Field(ge=1)] = 90


class Migration(Section):
    """The bounds of one live migration."""

    timeout_seconds: Seconds = 600.0
    bandwidth_mib_per_second: Annotated[int, Field(ge=1)] | None = None
    stop_grace_seconds: Seconds = 60.0


class Measurement(Section):
    """When a prediction is held against what was measured: for ``window_seconds``, from ``settle_seconds`` after the migration."""

    settle_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 20.0
    window_seconds: Seconds = 60.0


class Web(Section):
    """The page, the API, metrics and health over HTTP."""

    listen_address: Annotated[str, AfterValidator(_listen_address)] = "127.0.0.1:9808"
    external_url: Annotated[str, AfterValidator(_external_url)] | None = None
    token_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None

    @model_validator(mode="after")
    def _both(self) -> Web:
        if (self.cert_file is None) != (self.key_file is None):
            missing = "key_file" if self.key_file is None else "cert_file"
            raise ValueError(f"both cert_file and key_file; {missing} is missing")
        return self


class Log(Section):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["logfmt", "json"] = "logfmt"


class Config(Section):
    prometheus: Prometheus = Prometheus()
    libvirt: Libvirt = Libvirt()
    state: StateStore = StateStore()
    mode: Literal["recommend", "automatic"] = "recommend"
    interval_seconds: Seconds = 10.0
    policy: Policy = Policy()
    migration: Migration = Migration()
    measurement: Measurement = Measurement()
    web: Web = Web()
    log: Log = Log()

    @property
    def scrape_interval_seconds(self) -> float:
        return self.prometheus.scrape_interval_seconds or self.interval_seconds

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        if self.scrape_interval_seconds > self.interval_seconds:
            raise ValueError(
                f"interval_seconds: expected at least the scrape interval ({self.scrape_interval_seconds:g}), "
                f"got {self.interval_seconds:g}"
            )
        try:
            check_policy(self.policy)
        except InconsistentPolicy as error:
            raise ValueError(f"policy.{error}") from None
        return self


def read_config(path: Path) -> Config:
    """The configuration in the file; BadInput names the file, the key and what was expected."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise BadInput(f"{path}: cannot be read: {reason}") from None
    return parse_config(text, str(path))


def parse_config(text: str, source: str) -> Config:
    try:
        values = yaml.safe_load(text)
    except (
        yaml.YAMLError,
        ValueError,
        RecursionError,
    ) as error:  # ValueError: a date that is none, a number without end
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or (str(error) or "unreadable").splitlines()[0]
        raise BadInput(f"{source}: expected YAML: {problem}{where}") from None
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise BadInput(f"{source}: expected sections such as `policy:`, got {values!r}"[:200])
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise BadInput(f"{source}: {first_problem(error)}") from None
