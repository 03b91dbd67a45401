"""The section web: who reaches the page and the API, and where."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, model_validator

from virtpoise_balancer.config.section import Section, http_url, inconsistent, is_loopback, with_key
from virtpoise_balancer.hosts import NotAHost, checked, of_instance
from virtpoise_balancer.model import Name

_MOST_SOCKET_PATH = 100  # unix(7) has room for 108 bytes


def _external_url(url: str) -> str:
    url = http_url(url)
    parts = urlsplit(url)
    if parts.scheme != "https" and not is_loopback(parts.hostname or ""):
        raise ValueError("an https address (or one of this machine's own), since tokens are sent there")
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
            if self.cert_file is None and not is_loopback(host):
                raise inconsistent(
                    ["read: token needs TLS (cert_file and key_file), or a listen_address of this machine alone"]
                )
        return self
