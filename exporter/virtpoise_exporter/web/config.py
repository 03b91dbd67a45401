"""The web configuration of Prometheus' exporter-toolkit: TLS, client certificates, basic authentication.

Format: https://github.com/prometheus/exporter-toolkit/blob/master/docs/web-configuration.md (``promtool check
web-config``). What this exporter cannot honour is refused rather than ignored.
"""

import re
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from virtpoise_exporter.errors import UsageError
from virtpoise_exporter.web.files import check_secret, read_trusted

_T = TypeVar("_T")
_Stamp = tuple[int, int, int] | None
_VERSIONS = {
    "TLS10": ssl.TLSVersion.TLSv1,
    "TLS11": ssl.TLSVersion.TLSv1_1,
    "TLS12": ssl.TLSVersion.TLSv1_2,
    "TLS13": ssl.TLSVersion.TLSv1_3,
}
_CLIENT_AUTH = {
    "NoClientCert": ssl.CERT_NONE,
    "VerifyClientCertIfGiven": ssl.CERT_OPTIONAL,
    "RequireAndVerifyClientCert": ssl.CERT_REQUIRED,
}
_HEADERS = (
    "Cache-Control",
    "Content-Security-Policy",
    "Strict-Transport-Security",
    "X-Content-Type-Options",
    "X-Frame-Options",
    "X-XSS-Protection",
)
_BCRYPT = re.compile(r"\$2[abxy]\$(\d\d)\$[./A-Za-z0-9]{53}")
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|m|h)")
# Python refuses to write down a whole number of more than 4,300 digits, in a message as well.
_LONGEST_NUMBER = 1000
_MOST_BURST = 1_000_000
# No file's name has a zero byte, or half of a surrogate pair.
_NO_PATH = re.compile("[\0\ud800-\udfff]")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True, slots=True)
class RateLimit:
    """Allows one more request every ``interval_seconds``, and at most ``burst`` at once."""

    interval_seconds: float
    burst: int


@dataclass(frozen=True, slots=True)
class WebConfig:
    """A checked web configuration. ``files`` holds the state of all files it was read from, to notice a change."""

    tls: ssl.SSLContext | None = None
    allowed_sans: frozenset[str] = frozenset()
    users: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    rate_limit: RateLimit | None = None
    files: tuple[tuple[Path, _Stamp], ...] = ()


def load(path: Path) -> WebConfig:
    """Reads the file and what it names. Raises UsageError, which names the field; it never shows a secret."""
    import yaml

    reader = _Reader(path)
    try:
        content = _parsed(read_trusted(path).decode())
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--web.config.file {path}: {getattr(error, 'strerror', None) or error}") from None
    except UsageError as error:
        raise UsageError(f"--web.config.file {path}: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        raise UsageError(f"--web.config.file {path}: expected YAML, but there is an error{where}") from None
    except (ValueError, RecursionError, AttributeError, LookupError, TypeError):  # what PyYAML makes of a wrong tag
        raise UsageError(f"--web.config.file {path}: expected YAML without tags or dates that are none") from None
    return reader.read(content)


def _parsed(text: str) -> Any:
    """The values. Raises UsageError for a key that stands twice: the second would take the place of the first, and
    with it of the passwords.
    """
    import yaml

    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        for mistake in _repeated(node, "", set()):
            raise UsageError(mistake)
        return None if node is None else loader.construct_document(node)
    finally:
        loader.dispose()


def _repeated(node: Any, path: str, seen: set[int]) -> Iterator[str]:
    """A line for each key that stands twice in its mapping, and for each number that is too long.

    ``seen``: nodes that were looked at, by their ``id``.
    """
    if node is None or id(node) in seen:  # an alias, which may lead to itself
        return
    seen.add(id(node))
    if node.id == "scalar" and node.tag == "tag:yaml.org,2002:int" and len(node.value) > _LONGEST_NUMBER:
        yield f"{path.removesuffix('.')}: expected a number of at most {_LONGEST_NUMBER} characters"
    if node.id == "sequence":
        for value in node.value:
            yield from _repeated(value, path, seen)
    elif node.id == "mapping":
        lines: dict[str, int] = {}
        for key, value in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if name in lines:
                yield f"{path}{name}: expected each key once, got it again in line {line} (first in {lines[name]})"
            lines[name] = line
            yield from _repeated(key, path, seen)
            yield from _repeated(value, f"{path}{name}.", seen)


class _Reader:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._files = [(path, _stamp(path))]

    def read(self, content: Any) -> WebConfig:
        top = self._section("", content, ("tls_server_config", "http_server_config", "basic_auth_users", "rate_limit"))
        http = self._section("http_server_config", top.get("http_server_config"), ("http2", "headers"))
        if not isinstance(http.get("http2", True), bool):  # only ever offered, and never by this exporter
            raise self._error("http_server_config.http2", "expected true or false")
        tls, sans = self._tls(top.get("tls_server_config"))
        return WebConfig(
            tls=tls,
            allowed_sans=sans,
            users=self._users(top.get("basic_auth_users")),
            headers=self._headers(http.get("headers")),
            rate_limit=self._rate_limit(top.get("rate_limit")),
            files=tuple(self._files),
        )

    def _tls(self, content: Any) -> tuple[ssl.SSLContext | None, frozenset[str]]:
        name = "tls_server_config"
        keys = ("cert_file", "key_file", "client_auth_type", "client_ca_file", "client_allowed_sans", "min_version")
        section = self._section(name, content, (*keys, "max_version", "prefer_server_cipher_suites"))
        if not section:
            return None, frozenset()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = self._one_of(section, f"{name}.min_version", _VERSIONS, "TLS12")
        context.maximum_version = self._one_of(section, f"{name}.max_version", _VERSIONS, "TLS13")
        context.set_alpn_protocols(["http/1.1"])
        certificate = self._file(section, f"{name}.cert_file")
        key = self._file(section, f"{name}.key_file", secret=True)
        try:
            context.load_cert_chain(certificate, key, password=lambda: b"")
        except (OSError, ssl.SSLError) as error:
            raise self._error(f"{name}.cert_file, key_file", f"expected a certificate and its key: {error}") from None
        context.verify_mode = self._one_of(section, f"{name}.client_auth_type", _CLIENT_AUTH, "NoClientCert")
        if context.verify_mode != ssl.CERT_NONE or "client_ca_file" in section:
            if context.verify_mode == ssl.CERT_NONE:
                raise self._error(f"{name}.client_ca_file", "expected a client_auth_type that verifies, too")
            authority = self._file(section, f"{name}.client_ca_file")
            try:
                context.load_verify_locations(authority)
            except (OSError, ssl.SSLError) as error:
                raise self._error(f"{name}.client_ca_file", f"expected certificates: {error}") from None
        sans = [] if section.get("client_allowed_sans") is None else section["client_allowed_sans"]
        if not isinstance(sans, list) or not all(isinstance(san, str) for san in sans):
            raise self._error(f"{name}.client_allowed_sans", "expected a list of names")
        if sans and context.verify_mode != ssl.CERT_REQUIRED:
            raise self._error(
                f"{name}.client_allowed_sans", "expected client_auth_type RequireAndVerifyClientCert, too"
            )
        return context, frozenset(sans)

    def _users(self, content: Any) -> dict[str, str]:
        users = {}
        if content:
            try:
                check_secret(self._path)
            except OSError as error:
                raise self._error("basic_auth_users", str(error)) from None
        for user, digest in self._mapping("basic_auth_users", content).items():
            if not isinstance(user, str):  # what YAML makes of `yes` or `007` is no name that anybody gives
                raise self._error(f"basic_auth_users.{user}", "expected a user's name; put it in quotes")
            match = _BCRYPT.fullmatch(digest) if isinstance(digest, str) else None
            if match is None or not 4 <= int(match[1]) <= 31:
                raise self._error(f"basic_auth_users.{user}", "expected a bcrypt hash, as `htpasswd -nBC 10` makes it")
            users[user] = digest
        return users

    def _headers(self, content: Any) -> dict[str, str]:
        headers = self._section("http_server_config.headers", content, _HEADERS)
        for name, value in headers.items():
            if not isinstance(value, str) or not value.isprintable():
                raise self._error(f"http_server_config.headers.{name}", "expected one line of text")
        return headers

    def _rate_limit(self, content: Any) -> RateLimit | None:
        section = self._section("rate_limit", content, ("interval", "burst"))
        match = _DURATION.fullmatch(str(section.get("interval", "0s")))
        if match is None:
            raise self._error("rate_limit.interval", "expected a duration such as 500ms or 1s")
        burst = section.get("burst", 1)
        if not isinstance(burst, int) or isinstance(burst, bool) or not 1 <= burst <= _MOST_BURST:
            raise self._error("rate_limit.burst", f"expected a whole number from 1 to {_MOST_BURST}")
        interval = float(match[1]) * _SECONDS[match[2]]
        return RateLimit(interval, burst) if interval > 0 else None

    def _mapping(self, name: str, content: Any) -> dict[str, Any]:
        """The keys and values; none where the field is empty. What is false, 0 or a list is not empty."""
        if content is None:
            return {}
        if not isinstance(content, dict):
            raise self._error(name or "the file", "expected keys and values")
        return content

    def _section(self, name: str, content: Any, keys: tuple[str, ...]) -> dict[str, Any]:
        section = self._mapping(name, content)
        for key in section:
            if key not in keys:
                raise self._error(f"{name}.{key}".removeprefix("."), f"expected one of {', '.join(keys)}")
        return section

    def _file(self, section: dict[str, Any], field_name: str, *, secret: bool = False) -> Path:
        """A file's path, relative to the configuration's folder."""
        value = section.get(field_name.rpartition(".")[2])
        if not isinstance(value, str) or not value or _NO_PATH.search(value):
            raise self._error(field_name, "expected a file's path")
        path = self._path.parent / value
        self._files.append((path, _stamp(path)))
        try:
            read_trusted(path)
            if secret:
                check_secret(path)
        except OSError as error:
            raise self._error(field_name, f"{path}: {error.strerror}" if error.strerror else str(error)) from None
        return path

    def _one_of(self, section: dict[str, Any], field_name: str, choices: Mapping[str, _T], default: str) -> _T:
        value = section.get(field_name.rpartition(".")[2])
        if value is None or value == "":  # as exporter-toolkit has it
            return choices[default]
        if not isinstance(value, str) or value not in choices:
            raise self._error(field_name, f"expected one of {', '.join(choices)}")
        return choices[value]

    def _error(self, field_name: str, message: str) -> UsageError:
        return UsageError(f"--web.config.file {self._path}: {field_name}: {message}")


class Watched:
    """The configuration, read again whenever one of its files has changed."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._config = load(path) if path else WebConfig()

    def current(self) -> WebConfig:
        """The configuration. Raises UsageError while the files are wrong: then every request is refused."""
        if self._path is not None and _changed(self._config):
            config = load(self._path)
            if not _changed(config):  # else it may be half old and half new; the next request reads it again
                self._config = config
        return self._config


def _changed(config: WebConfig) -> bool:
    return any(_stamp(file) != stamp for file, stamp in config.files)


def _stamp(path: Path) -> _Stamp:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
