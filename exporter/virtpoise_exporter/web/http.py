"""Just enough of HTTP/1.1 to be scraped: a request's head, and an answer. Pure. (RFC 9112)"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus


class BadRequestError(Exception):
    """The bytes are no HTTP request that this server understands."""


class HeadTooLargeError(Exception):
    """A request's head is longer than this server takes."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request's head; the names of its headers are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    keep_alive: bool


@dataclass(frozen=True, slots=True)
class Response:
    """An answer. ``headers`` come besides Content-Type and Content-Length."""

    status: HTTPStatus
    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    headers: Mapping[str, str] = field(default_factory=dict)


def parse_head(head: bytes) -> Request:
    """Parses a request's head up to and with its empty line. Raises BadRequestError."""
    try:
        request_line, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
        method, target, version = request_line.split(" ")
    except ValueError:
        raise BadRequestError("the request line is not `METHOD PATH HTTP/1.1`") from None
    if version not in ("HTTP/1.0", "HTTP/1.1") or not method.isalpha():
        raise BadRequestError("the request line is not `METHOD PATH HTTP/1.1`")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise BadRequestError("a header is not `Name: value`")
        name, value = name.lower(), value.strip()
        if name == "content-length" and headers.get(name, value) != value:  # a proxy may go by the other one
            raise BadRequestError("Content-Length stands twice")
        headers[name] = value
    has_body = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
    connection = {token.strip().lower() for token in headers.get("connection", "").split(",")}
    wants_more = "close" not in connection if version == "HTTP/1.1" else "keep-alive" in connection
    return Request(
        method=method,
        path=target.partition("?")[0],
        headers=headers,
        keep_alive=wants_more and not has_body,  # a body is not read, so what follows it cannot be either
    )


def render_head(response: Response, *, keep_alive: bool) -> bytes:
    """The bytes of an answer up to its body."""
    lines = [
        f"HTTP/1.1 {response.status.value} {response.status.phrase}",
        f"Content-Type: {response.content_type}",
        f"Content-Length: {len(response.body)}",
        f"Connection: {'keep-alive' if keep_alive else 'close'}",
        *(f"{name}: {value}" for name, value in response.headers.items()),
    ]
    return "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n"


def accepts_gzip(request: Request) -> bool:
    """Whether the client takes a body compressed with gzip."""
    for part in request.headers.get("accept-encoding", "").split(","):
        coding, _, parameter = part.strip().lower().partition(";")
        if coding.strip() in ("gzip", "*"):
            return parameter.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False
