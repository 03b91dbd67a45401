"""The section http_config: how the balancer authenticates at Prometheus, with Prometheus' own keys.

No secret stands in it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator

from virtpoise_balancer.config.section import HostName, Section, http_url, unshown, with_key

_OWN_HEADERS = (
    "accept-encoding",
    "authorization",
    "connection",
    "content-length",
    "content-type",
    "host",
    "transfer-encoding",
)


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
