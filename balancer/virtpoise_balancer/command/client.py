"""A client of the API of the balancer on this machine, for the commands."""

from __future__ import annotations

import http.client
import json
import os
import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from virtpoise_balancer.config import Config
from virtpoise_balancer.errors import BadInput, NotKnown, Refused, VirtpoiseError
from virtpoise_balancer.tokens import USER_HEADER, own_token

_TIMEOUT_SECONDS = 60.0  # an order is checked against fresh data before it is answered
_ANSWERS: Mapping[int, type[VirtpoiseError]] = {400: BadInput, 404: NotKnown, 409: Refused}


def get(config: Config, path: str, timeout_seconds: float = 5.0) -> Any:
    """The JSON at a path below ``/api/v1/``. VirtpoiseError when no balancer answers."""
    return _ask(config, "GET", path, None, {}, timeout_seconds)


def order(config: Config, path: str, body: Mapping[str, Any], user: str) -> str:
    """Give an order with a token from ``web.token_file``, and return the answer.

    Refused, NotKnown or BadInput as the balancer reports.
    """
    token = own_token(config.web.token_file, user, root=os.geteuid() == 0)
    headers = {
        "Authorization": f"Bearer {token}",
        "Content-Type": "application/json",
        USER_HEADER: quote(user, safe=""),
    }
    return str(_ask(config, "POST", path, body, headers, _TIMEOUT_SECONDS)["answer"])


def _ask(config: Config, method: str, path: str, body: Any, headers: Mapping[str, str], timeout_seconds: float) -> Any:
    address = config.web.listen_address
    try:
        connection = _connection(config, timeout_seconds)
        content = None if body is None else json.dumps(body)
        connection.request(method, f"/api/v1/{path}", content, {"Accept": "application/json", **headers})
        response = connection.getresponse()
        found = json.loads(response.read())
        connection.close()
    except (OSError, http.client.HTTPException, ValueError):
        raise VirtpoiseError(
            f"no balancer answers at {address} (web.listen_address): is `virtpoise run` running?"
        ) from None
    if response.status >= http.HTTPStatus.BAD_REQUEST:
        raise _ANSWERS.get(response.status, VirtpoiseError)(str(found.get("error", response.reason)))
    return found


def _connection(config: Config, timeout_seconds: float) -> http.client.HTTPConnection:
    host, _, port = config.web.listen_address.rpartition(":")
    host = {"0.0.0.0": "127.0.0.1", "[::]": "::1"}.get(host, host.strip("[]"))  # noqa: S104 - compared, not bound
    if config.web.cert_file is None:
        return http.client.HTTPConnection(host, int(port), timeout=timeout_seconds)
    # The balancer is identified by its certificate, which is in the configuration, whatever name is in it. A strict check would also
    # want a key usage, which many a certificate that people make for one machine lacks.
    context = ssl.create_default_context(cafile=str(config.web.cert_file))
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return http.client.HTTPSConnection(host, int(port), timeout=timeout_seconds, context=context)
