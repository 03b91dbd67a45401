"""The section http_config: how the balancer authenticates at Prometheus, with Prometheus' own keys.

No secret stands in it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, Protocol, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from virtpoise_balancer.formats import INCONSISTENT, SECRET
from virtpoise_balancer.hosts import NotAHost, checked

_OWN_HEADERS = (
    "accept-encoding",
    "authorization",
    "connection",
    "content-length",
    "content-type",
    "host",
    "transfer-encoding",
)


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def unshown(expected: str) -> PydanticCustomError:
    """An error about a value that is not shown."""
    return PydanticCustomError(SECRET, "{expected}", {"expected": expected})


def inconsistent(found: Iterable[str]) -> PydanticCustomError:
    """An error of values that contradict each other. Each line names its field below the section."""
    return PydanticCustomError(INCONSISTENT, "{lines}", {"lines": "\n".join(found)})


def http_url(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    if "@" in (rest if separator else url).partition("/")[0] or "?" in rest or "#" in rest:
        # Addresses are logged and shown, so they hold no secret.
        raise unshown("an address without a user, a password, a query or a fragment, since it is logged and shown")
    if scheme not in ("http", "https") or not separator or not rest.strip("/") or not url.isprintable():
        raise ValueError("an address like http://127.0.0.1:9090")
    return url.rstrip("/")


def _header_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name) or name.lower() in _OWN_HEADERS:
        raise ValueError(
            f"the name of an HTTP header that the balancer does not set itself ({', '.join(_OWN_HEADERS)})"
        )
    return name


def _header_value(value: str) -> str:
    if not value.isprintable() or not value.isascii():
        raise ValueError("printable ASCII on one line")
    return value


def _no_inline_secret(key: str, file_key: str) -> Callable[[Any], Any]:
    """Refuses Prometheus' own key for a secret in the configuration itself, without showing its value."""

    def check(values: Any) -> Any:
        if isinstance(values, dict) and key in values:
            raise unshown(f"{file_key} in place of {key}, so that the secret is in a file of its own")
        return values

    return check


def _host_name(name: str) -> str:
    try:
        return checked(name)
    except NotAHost:
        raise ValueError(
            "the name of a host as Prometheus gives it, without a port: a DNS name or an IP address"
        ) from None


HostName = Annotated[str, AfterValidator(_host_name)]


_T = TypeVar("_T", bound="_Pair")


class _Pair(Protocol):
    @property
    def cert_file(self) -> Path | None: ...
    @property
    def key_file(self) -> Path | None: ...


def with_key(section: _T) -> _T:
    if (section.cert_file is None) != (section.key_file is None):
        missing = "key_file" if section.key_file is None else "cert_file"
        raise ValueError(f"both cert_file and key_file; {missing} is missing")
    return section


class BasicAuth(Section):
    """A user and a file with the password."""

    username: Annotated[str, AfterValidator(_header_value)]
    password_file: Path

    _file = model_validator(mode="before")(_no_inline_secret("password", "password_file"))


class Authorization(Section):
    """The type and the file of other credentials."""

    type: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")] = "Bearer"
    credentials_file: Path

    _file = model_validator(mode="before")(_no_inline_secret("credentials", "credentials_file"))


class TlsConfig(Section):
    """How Prometheus proves itself, and how the balancer does."""

    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    server_name: HostName | None = None
    insecure_skip_verify: bool = False

    @model_validator(mode="after")
    def _both(self) -> TlsConfig:
        return with_key(self)


class HttpHeader(Section):
    """One header: its value, or a file with it."""

    values: Annotated[tuple[Annotated[str, AfterValidator(_header_value)], ...], Field(max_length=1)] = ()
    files: Annotated[tuple[Path, ...], Field(max_length=1)] = ()

    _file = model_validator(mode="before")(_no_inline_secret("secrets", "files"))

    @model_validator(mode="after")
    def _one(self) -> HttpHeader:
        if len(self.values) + len(self.files) != 1:
            raise ValueError("one of values and files, with one entry")
        return self


class HttpConfig(Section):
    """Prometheus' own ``http_config``, as far as it serves here."""

    basic_auth: BasicAuth | None = None
    authorization: Authorization | None = None
    tls_config: TlsConfig = TlsConfig()
    proxy_url: Annotated[str, AfterValidator(http_url)] | None = None
    http_headers: dict[Annotated[str, AfterValidator(_header_name)], HttpHeader] = Field(default_factory=dict)
