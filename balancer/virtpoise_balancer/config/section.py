"""What the sections of the configuration share: their base, checks of single values, and errors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Protocol, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from virtpoise_balancer.formats import INCONSISTENT, SECRET
from virtpoise_balancer.hosts import NotAHost, checked, folded
from virtpoise_balancer.visible import shown

# A time that can be waited for: the system's calls take no number without end.
Seconds = Annotated[float, Field(ge=0.001, le=31 * 86400, allow_inf_nan=False)]


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
    if scheme not in ("http", "https") or not rest.strip("/") or not url.isprintable() or not _has_host(url):
        raise ValueError("an address like http://127.0.0.1:9090")
    return url.rstrip("/")


def _has_host(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:  # an open bracket, or a port that is none
        return False


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


def _each_once(values: Any) -> Any:
    """The values themselves. ValueError where two of their keys are one host."""
    names: dict[str, str] = {}
    for key in filter(lambda one: isinstance(one, str), values if isinstance(values, Mapping) else ()):
        try:
            first = names.setdefault(folded(checked(key)), key)
        except NotAHost:  # the key's own check says so
            continue
        if first != key:
            raise unshown(f"each host once, got {shown(key)!r}, which is {shown(first)!r}")
    return values


# Before what maps hosts to something: two spellings of one name are one key.
EachHostOnce = BeforeValidator(_each_once)


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
