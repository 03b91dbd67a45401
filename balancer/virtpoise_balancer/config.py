"""The configuration file: one typed schema, read from YAML, refused with one line that names the key and what was expected."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

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


def _database_url(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    if not scheme or not separator or not rest:
        raise ValueError("a database address like sqlite:////var/lib/virtpoise/virtpoise.db")
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
    timeout_seconds: Seconds = Field(5.0, description="one deadline for a query with its retries")
    scrape_interval_seconds: Seconds | None = Field(
        None, description="how often Prometheus scrapes the exporters; by default the balancer's own interval"
    )
    exporter_port: Annotated[int, Field(ge=1, le=65535)] = Field(
        9807, description="where the hosts' exporters listen, for Prometheus' service discovery by /sd/hosts"
    )
    token_file: Path | None = Field(None, description="a file with a bearer token")
    ca_file: Path | None = Field(None, description="the authority that signed Prometheus' certificate")
    queries: Annotated[dict[str, str], AfterValidator(_known_queries)] = Field(
        default_factory=dict, description="PromQL in place of the built-in queries, by name"
    )


class Libvirt(Section):
    """How the balancer, and the hosts among themselves, reach a host."""

    uri: Annotated[str, AfterValidator(_host_template)] = "qemu+ssh://{host}/system"
    hosts: dict[str, str] = Field(default_factory=dict, description="an address of its own for a host, by its name")
    connect_timeout_seconds: Seconds = 10.0

    def uri_of(self, host: str) -> str:
        return self.hosts.get(host) or self.uri.replace("{host}", host)


class State(Section):
    """What the balancer remembers."""

    url: Annotated[str, AfterValidator(_database_url)] = "sqlite:////var/lib/virtpoise/virtpoise.db"
    keep_days: Annotated[int, Field(ge=1)] = Field(90, description="how long cycles, plans and migrations are kept")


class Migration(Section):
    """The bounds of one live migration."""

    timeout_seconds: Seconds = Field(600.0, description="a migration that takes longer is aborted; its domain stays")
    bandwidth_mib_per_second: Annotated[int, Field(ge=1)] | None = Field(
        None, description="the most that one migration may send; copying costs CPU on both hosts, and less so when slow"
    )
    stop_grace_seconds: Seconds = Field(
        60.0, description="how long a running migration may still take when the balancer is told to stop"
    )


class Measurement(Section):
    """When a prediction is held against what was measured: for ``window_seconds``, from ``settle_seconds`` after the migration."""

    settle_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 20.0
    window_seconds: Seconds = 60.0


class Web(Section):
    """The page, the API, metrics and health over HTTP."""

    listen_address: Annotated[str, AfterValidator(_listen_address)] = "127.0.0.1:9808"
    external_url: Annotated[str, AfterValidator(_http_url)] | None = Field(
        None, description="the address by which browsers reach the page, where a proxy stands in between"
    )
    token_file: Path | None = Field(
        None, description="who may change something: a line NAME:TOKEN each; without it, nobody"
    )
    cert_file: Path | None = Field(None, description="a certificate, to be served over TLS")
    key_file: Path | None = Field(None, description="the certificate's key")

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
    state: State = State()
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
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        raise BadInput(f"{source}: expected YAML: {getattr(error, 'problem', None) or 'unreadable'}{where}") from None
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise BadInput(f"{source}: expected sections such as `policy:`, got {values!r}"[:200])
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise BadInput(f"{source}: {first_problem(error)}") from None
