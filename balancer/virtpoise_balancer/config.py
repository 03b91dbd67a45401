"""The configuration file: one typed schema, read from YAML, refused with one line that names the key and what was
expected.

virtpoise.example.yml describes each key; docs/configuration.md is generated from it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import parse_qs, urlsplit

import yaml
from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from virtpoise_balancer.errors import BadInput, LibvirtError
from virtpoise_balancer.formats import INCONSISTENT, problems
from virtpoise_balancer.hosts import NotAHost, check_template, check_uri, checked, matcher, of_instance, uri_of
from virtpoise_balancer.http_config import HostName, HttpConfig, Section, http_url, unshown, with_key
from virtpoise_balancer.model import Mode, Name, Policy, policy_problems
from virtpoise_balancer.monitor.http import Access
from virtpoise_balancer.monitor.matchers import EXAMPLE, read_matchers
from virtpoise_balancer.monitor.queries import QUERIES
from virtpoise_balancer.rules.check import rule_problems
from virtpoise_balancer.secret_files import check_secret
from virtpoise_balancer.tokens import read_tokens
from virtpoise_balancer.visible import shown

WHICH_HOSTS = (
    "expected, for mode automatic, patterns of the hosts' names such as kvm*.example.org (or libvirt.hosts), "
    "so that no other target becomes a host"
)

# Parameters of libpq that hold no secret.
_POSTGRESQL_OPTIONS = frozenset({"host", "port", "passfile", "service", "sslcert", "sslkey", "sslmode", "sslrootcert"})

_MOST_SOCKET_PATH = 100  # unix(7) has room for 108 bytes

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def _external_url(url: str) -> str:
    url = http_url(url)
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
    if url.startswith("postgresql"):
        return _postgresql_url(url)
    # A file, and nothing else: the lock of the balancer that acts lies beside it.
    if not re.fullmatch(r"sqlite:////[^?]*[^?/]", url):
        raise ValueError(
            "a file of SQLite by its whole path, like sqlite:////var/lib/virtpoise/virtpoise.db, "
            "or a database like postgresql+psycopg://virtpoise@db.example.org/virtpoise"
        )
    return url


def _postgresql_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        options = parse_qs(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
        with_password = parts.password is not None or not options.keys() <= _POSTGRESQL_OPTIONS
        well_formed = parts.scheme == "postgresql+psycopg" and bool(parts.path.strip("/")) and not parts.fragment
        _ = parts.port
    except ValueError:
        with_password, well_formed = "@" in url, False
    if with_password:  # the address is logged and shown, so it holds no secret
        raise unshown(
            "an address without a password (state.password_file, or libpq's passfile), whose query has only "
            f"{', '.join(sorted(_POSTGRESQL_OPTIONS))}, since it is logged and shown"
        )
    if not well_formed or not url.isprintable():
        raise ValueError("a database like postgresql+psycopg://virtpoise@db.example.org/virtpoise")
    return url


def _listen_address(address: str) -> str:
    host, _, port = address.rpartition(":")
    try:
        named = bool(port) and of_instance(address) == checked(host.removeprefix("[").removesuffix("]"))
    except NotAHost:
        named = False
    if not named:
        raise ValueError("an address and a port like 127.0.0.1:9808 or [::1]:9808")
    return address


def _socket_path(path: Path) -> Path:
    if not path.is_absolute() or len(str(path)) > _MOST_SOCKET_PATH:
        raise ValueError(f"a whole path of at most {_MOST_SOCKET_PATH} characters like /run/virtpoise/virtpoise.sock")
    return path


def _known_queries(queries: dict[str, str]) -> dict[str, str]:
    for name in queries:
        if name not in QUERIES:
            raise ValueError(f"names of queries ({', '.join(sorted(QUERIES))}); {name!r} is none")
    return queries


def inconsistent(found: Iterable[str]) -> PydanticCustomError:
    return PydanticCustomError(INCONSISTENT, "{lines}", {"lines": "\n".join(found)})


def _consistent_policy(policy: Policy) -> Policy:
    if found := [*policy_problems(policy), *rule_problems(policy)]:
        raise inconsistent(found)
    return policy


def _patterns(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _off(value: Any) -> Any:
    return "off" if value is False else value  # what YAML makes of `off`


class Prometheus(Section):
    """Where the figures come from."""

    url: Annotated[str, AfterValidator(http_url)] = "http://127.0.0.1:9090"
    timeout_seconds: Seconds = 5.0
    scrape_interval_seconds: Seconds | None = None
    matchers: Annotated[str, AfterValidator(read_matchers)] = EXAMPLE
    exporter_port: Annotated[int, Field(ge=1, le=65535)] = 9807
    token_file: Path | None = None
    ca_file: Path | None = None
    http_config: HttpConfig = HttpConfig()
    queries: Annotated[dict[str, str], AfterValidator(_known_queries)] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_of_each(self) -> Prometheus:
        http = self.http_config
        if sum(one is not None for one in (self.token_file, http.basic_auth, http.authorization)) > 1:
            raise inconsistent(["http_config: expected one of token_file, basic_auth and authorization"])
        if self.ca_file is not None and http.tls_config.ca_file is not None:
            raise inconsistent(["http_config.tls_config.ca_file: expected ca_file once, got it in prometheus as well"])
        return self

    def access(self) -> Access:
        """How Prometheus is asked."""
        http, tls = self.http_config, self.http_config.tls_config
        file, key, scheme, user = self.token_file, "prometheus.token_file", "Bearer", None
        if http.authorization is not None:
            file, scheme = http.authorization.credentials_file, http.authorization.type
            key = "prometheus.http_config.authorization.credentials_file"
        elif http.basic_auth is not None:
            file, user = http.basic_auth.password_file, http.basic_auth.username
            key = "prometheus.http_config.basic_auth.password_file"
        return Access(
            secret_file=file,
            secret_key=key,
            scheme=scheme,
            user=user,
            ca_file=self.ca_file or tls.ca_file,
            cert_file=tls.cert_file,
            key_file=tls.key_file,
            server_name=tls.server_name,
            insecure_skip_verify=tls.insecure_skip_verify,
            proxy_url=http.proxy_url,
            headers={name: one.values[0] for name, one in http.http_headers.items() if one.values},
            header_files={name: one.files[0] for name, one in http.http_headers.items() if one.files},
        )


class Libvirt(Section):
    """How the balancer, and the hosts among themselves, reach a host."""

    uri: Annotated[str, AfterValidator(check_template)] = "qemu+ssh://{host}/system"
    host_uri: Annotated[str, AfterValidator(check_template)] | None = None
    hosts: dict[HostName, Annotated[str, AfterValidator(check_uri)]] = Field(default_factory=dict)
    pattern: Annotated[tuple[Name, ...], BeforeValidator(_patterns)] = ()
    connect_timeout_seconds: Seconds = 10.0

    @property
    def names_hosts(self) -> bool:
        """Whether the configuration says which targets may be hosts; without, every target that Prometheus has may be
        one.
        """
        return bool(self.hosts or self.pattern)

    def admission(self) -> Callable[[str], bool]:
        """Whether a target of this name may be a host."""
        fits = matcher(self.pattern).match

        def admits(name: str) -> bool:
            if name in self.hosts:
                return True
            if self.names_hosts and fits(name) is None:
                return False
            try:  # an IPv6 address has no place in a template like kvm-{host}
                for template in filter(None, (self.uri, self.host_uri)):
                    uri_of(template, name)
            except NotAHost:
                return False
            return True

        return admits

    def uri_of(self, host: str) -> str:
        """The URI of the host's libvirt for the balancer.

        LibvirtError when the name is no host's, wherever it came from.
        """
        return self.hosts.get(host) or _uri_of(self.uri, host)

    def peer_uri_of(self, host: str) -> str:
        """The URI of the host's libvirt for the other hosts. LibvirtError as of ``uri_of``."""
        return self.uri_of(host) if self.host_uri is None else _uri_of(self.host_uri, host)


def _uri_of(template: str, host: str) -> str:
    try:
        return uri_of(template, host)
    except NotAHost as error:
        raise LibvirtError(f"{shown(host)!r} is not connected to: {error}") from None


class StateStore(Section):
    """What the balancer remembers, and for how long."""

    url: Annotated[str, AfterValidator(_database_url)] = "sqlite:////var/lib/virtpoise/virtpoise.db"
    password_file: Path | None = None
    keep_days: Annotated[int, Field(ge=1)] = 90
    keep_bytes: Annotated[int, Field(ge=1)] = 256 * 2**20

    @property
    def file(self) -> Path | None:
        """The file of an SQLite store; None for a database on a server."""
        _, is_file, path = self.url.partition("sqlite:///")
        return Path(path) if is_file else None


class Migration(Section):
    """How one live migration is made, and its bounds."""

    timeout_seconds: Seconds = 600.0
    encryption: Annotated[Literal["required", "off"], BeforeValidator(_off)] = "off"
    bandwidth_mib_per_second: Annotated[int, Field(ge=1)] | None = None
    stop_grace_seconds: Seconds = 60.0


class Measurement(Section):
    """When a prediction is compared with the measured load: for ``window_seconds``, from ``settle_seconds`` after the
    migration.
    """

    settle_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 20.0
    window_seconds: Seconds = 60.0


class Web(Section):
    """The page, the API, metrics and health over HTTP."""

    listen_address: Annotated[str, AfterValidator(_listen_address)] = "127.0.0.1:9808"
    external_url: Annotated[str, AfterValidator(_external_url)] | None = None
    token_file: Path | None = None
    read: Literal["everyone", "token"] = "everyone"
    socket: Annotated[Path, AfterValidator(_socket_path)] = Path("/run/virtpoise/virtpoise.sock")
    socket_group: Name | None = None
    token_over_http: bool = False
    cert_file: Path | None = None
    key_file: Path | None = None

    @model_validator(mode="after")
    def _both(self) -> Web:
        return with_key(self)

    @model_validator(mode="after")
    def _readable(self) -> Web:
        if self.read == "token":
            if self.token_file is None:
                raise inconsistent(["read: token needs token_file"])
            host = self.listen_address.rpartition(":")[0].strip("[]")
            if self.cert_file is None and not _loopback(host):
                raise inconsistent(
                    ["read: token needs TLS (cert_file and key_file), or a listen_address of this machine alone"]
                )
        return self


class Log(Section):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["logfmt", "json"] = "logfmt"


class Config(Section):
    prometheus: Prometheus = Prometheus()
    libvirt: Libvirt = Libvirt()
    state: StateStore = StateStore()
    mode: Mode = "recommend"
    interval_seconds: Seconds = 10.0
    policy: Annotated[Policy, AfterValidator(_consistent_policy)] = Policy()
    migration: Migration = Migration()
    measurement: Measurement = Measurement()
    web: Web = Web()
    log: Log = Log()

    @property
    def scrape_interval_seconds(self) -> float:
        return self.prometheus.scrape_interval_seconds or self.interval_seconds

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        found = []
        if self.scrape_interval_seconds > self.interval_seconds:
            found.append(
                f"interval_seconds: expected at least the scrape interval ({self.scrape_interval_seconds:g}), "
                f"got {self.interval_seconds:g}"
            )
        if self.mode == "automatic" and not self.libvirt.names_hosts:
            found.append(f"libvirt.pattern: {WHICH_HOSTS}")
        if found:
            raise inconsistent(found)
        return self


def check_secrets(config: Config) -> None:
    """BadInput when a file with a secret that the configuration names cannot be used, by whoever calls this."""
    config.prometheus.access().check()
    if config.web.token_file is not None:
        read_tokens(config.web.token_file)
    if config.state.password_file is not None:
        check_secret(config.state.password_file, "state.password_file")
    if config.web.key_file is not None:
        check_secret(config.web.key_file, "web.key_file")


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
        values, mistakes = _yaml(text)
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
        config = Config.model_validate(values)
    except ValidationError as error:
        raise BadInput.of(source, [*mistakes, *problems(error)]) from None
    if mistakes:
        raise BadInput.of(source, mistakes)
    return config


def _yaml(text: str) -> tuple[Any, list[str]]:
    """The values, and a line for each key that stands twice in its mapping and for each text with a zero byte.

    The last one of two keys counts in the values. No file's name, address or pattern has a zero byte.
    """
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        mistakes = list(_mistakes(node, "", set()))
        return (None if node is None else loader.construct_document(node)), mistakes
    except (AttributeError, LookupError, TypeError) as error:  # PyYAML takes a tag's word for what its value is
        raise ValueError("a value is not of the kind that its tag (such as !!timestamp) says") from error
    finally:
        loader.dispose()


def _mistakes(node: yaml.Node | None, path: str, seen: set[int]) -> Iterator[str]:
    if node is None or id(node) in seen:  # an alias, which may lead to itself
        return
    seen.add(id(node))
    if isinstance(node, yaml.ScalarNode) and "\0" in node.value:
        yield f"{path.removesuffix('.')}: expected text without a zero byte"
    if isinstance(node, yaml.SequenceNode):
        for number, one in enumerate(node.value):
            yield from _mistakes(one, f"{path}{number}.", seen)
    elif isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if isinstance(key, yaml.ScalarNode):
                if key.value in lines:
                    yield f"{path}{key.value}: expected each key once, got it again at line {line} (first at {lines[key.value]})"
                lines.setdefault(key.value, line)
                yield from _mistakes(value, f"{path}{key.value}.", seen)
            else:
                yield from _mistakes(value, path, seen)
