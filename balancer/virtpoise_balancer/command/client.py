"""A client of the API of the balancer on this machine, for the commands.

They use the balancer's Unix socket, where the kernel tells the balancer who asks, and no token is sent. Only where
there is none do they use its TCP port: whoever took that port while no balancer ran would get the token, so it is sent
over verified TLS alone.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from virtpoise_balancer.config import Config
from virtpoise_balancer.errors import BadInput, NotKnown, Refused, VirtpoiseError
from virtpoise_balancer.tokens import USER_HEADER, own_token, user_name

if TYPE_CHECKING:  # most commands need no plan, and start faster without
    from virtpoise_balancer.model import Plan

_TIMEOUT_SECONDS = 60.0  # an order is checked against fresh data before it is answered
_MOST_BYTES = 256 * 2**20
_ANSWERS: Mapping[int, type[VirtpoiseError]] = {400: BadInput, 404: NotKnown, 409: Refused}


class _LocalConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str, timeout_seconds: float) -> None:
        super().__init__("localhost", timeout=timeout_seconds)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class _PinnedConnection(http.client.HTTPSConnection):
    """HTTPS to whoever has the key of this very certificate. VirtpoiseError before anything is sent to another one.

    A file of a certificate often has those of its authority, too. Whoever has another certificate of that authority
    could take the balancer's port.
    """

    def __init__(self, host: str, port: int, timeout_seconds: float, certificate: Path) -> None:
        try:
            # The balancer is known by its certificate, whatever name is in it. A strict check would also want a key
            # usage, which many a certificate that people make for one machine lacks.
            context = ssl.create_default_context(cafile=str(certificate))
            self._expected = _first_of(certificate)
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or "expected a certificate"
            raise VirtpoiseError(f"no balancer answers: {certificate} (web.cert_file) cannot be read: {why}") from None
        context.check_hostname = False
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        super().__init__(host, port, timeout=timeout_seconds, context=context)

    def connect(self) -> None:
        try:
            super().connect()
        except ssl.SSLCertVerificationError as error:
            raise self._another(error.verify_message) from None
        if self.sock.getpeercert(binary_form=True) != self._expected:
            self.close()
            raise self._another("it is of the same authority")

    def _another(self, why: str) -> VirtpoiseError:
        return VirtpoiseError(
            f"{self.host}:{self.port} (web.listen_address): what answers has no valid certificate that is the one in "
            f"web.cert_file ({why}); nothing was sent to it"
        )


def _first_of(file: Path) -> bytes:
    """The first certificate of a file, which is the server's own."""
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    _, _, rest = file.read_text("ascii", "replace").partition(begin)
    return ssl.PEM_cert_to_DER_cert(f"{begin}{rest.partition(end)[0]}{end}")


def plan_in(reply: Any) -> Plan | None:
    """The plan in the balancer's answer to ``plan``, or None while it has none."""
    from virtpoise_balancer.formats import read_plan

    return read_plan(json.dumps(reply["plan"]), "the balancer's plan") if reply["plan"] else None


def get(config: Config, path: str, timeout_seconds: float = 5.0) -> Any:
    """The JSON at a path below ``/api/v1/``; of a group's own configuration, of this group.

    VirtpoiseError when no balancer answers.
    """
    if local := _local(config, timeout_seconds):
        return _ask(config, local, "GET", path, None, {})
    headers = _token(config, user_name(os.getuid())) if config.web.read == "token" else {}
    return _ask(config, _remote(config, timeout_seconds), "GET", path, None, headers)


def order(config: Config, path: str, body: Mapping[str, Any], user: str) -> str:
    """Give an order for ``user``, and return the answer. Refused, NotKnown or BadInput as the balancer reports."""
    headers = {"Content-Type": "application/json"}
    local = _local(config, _TIMEOUT_SECONDS)
    if local is None:
        headers |= _token(config, user)
    if local is None or os.geteuid() == 0:
        headers[USER_HEADER] = quote(user, safe="")
    connection = local or _remote(config, _TIMEOUT_SECONDS)
    return str(_ask(config, connection, "POST", path, body, headers)["answer"])


def _token(config: Config, user: str) -> dict[str, str]:
    """The header with a token, if only the balancer can receive it. VirtpoiseError otherwise."""
    if config.web.cert_file is None and not config.web.token_over_http:
        raise VirtpoiseError(
            f"{config.web.socket} (web.socket): no balancer lets this user in there, and a token is sent over TLS only "
            "(web.cert_file), since any user of this machine can take the port while no balancer runs"
        )
    return {"Authorization": f"Bearer {own_token(config.web.token_file, user, root=os.geteuid() == 0)}"}


def _ask(
    config: Config,
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: Any,
    headers: Mapping[str, str],
) -> Any:
    local = isinstance(connection, _LocalConnection)
    where = f"{config.web.socket} (web.socket)" if local else f"{config.web.listen_address} (web.listen_address)"
    try:
        content = None if body is None else json.dumps(body)
        connection.request(
            method, f"/api/v1/{_of_group(config, path)}", content, {"Accept": "application/json", **headers}
        )
        response = connection.getresponse()
        found = json.loads(response.read(_MOST_BYTES))
    except (OSError, http.client.HTTPException, ValueError, RecursionError):
        raise VirtpoiseError(f"no balancer answers at {where}: is `virtpoise run` running?") from None
    finally:
        connection.close()
    if response.status >= http.HTTPStatus.BAD_REQUEST:
        why = found.get("error", response.reason) if isinstance(found, dict) else response.reason
        raise _ANSWERS.get(response.status, VirtpoiseError)(str(why))
    return found


def _of_group(config: Config, path: str) -> str:
    return f"{path}{'&' if '?' in path else '?'}group={quote(config.group)}" if config.group else path


def _local(config: Config, timeout_seconds: float) -> _LocalConnection | None:
    """A connection to the balancer's socket; None when nothing listens there, or this user may not connect."""
    connection = _LocalConnection(str(config.web.socket), timeout_seconds)
    try:
        connection.connect()
    except OSError:
        connection.close()
        return None
    return connection


def _remote(config: Config, timeout_seconds: float) -> http.client.HTTPConnection:
    host, _, port = config.web.listen_address.rpartition(":")
    host = {"0.0.0.0": "127.0.0.1", "[::]": "::1"}.get(host, host.strip("[]"))  # noqa: S104 - compared, not bound
    if config.web.cert_file is None:
        return http.client.HTTPConnection(host, int(port), timeout=timeout_seconds)
    return _PinnedConnection(host, int(port), timeout_seconds, config.web.cert_file)
