"""What the sections of the configuration share: their base, checks of single values, and errors."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Protocol, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from virtpoise_balancer.formats import INCONSISTENT, SECRET
from virtpoise_balancer.hosts import NotAHost, checked

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def inconsistent(found: Iterable[str]) -> PydanticCustomError:
    return PydanticCustomError(INCONSISTENT, "{lines}", {"lines": "\n".join(found)})


def unshown(expected: str) -> PydanticCustomError:
    """An error about a value that is not shown."""
    return PydanticCustomError(SECRET, "{expected}", {"expected": expected})


def http_url(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    if "@" in (rest if separator else url).partition("/")[0] or "?" in rest or "#" in rest:
        # Addresses are logged and shown, so they hold no secret.
        raise unshown("an address without a user, a password, a query or a fragment, since it is logged and shown")
    if scheme not in ("http", "https") or not separator or not rest.strip("/") or not url.isprintable():
        raise ValueError("an address like http://127.0.0.1:9090")
    return url.rstrip("/")


def is_loopback(host: str) -> bool:
    """Whether the host is this machine: a loopback address or localhost."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


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
