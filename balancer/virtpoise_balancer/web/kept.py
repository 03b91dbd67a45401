"""Answers that are written once and served to all readers, and sent in slices.

Writing takes the processor from the loop that balances. So one answer is written at a time, and then as long a pause is
made; what was written for a state is kept as long as that state is the newest.
"""

from __future__ import annotations

import asyncio
import gzip
import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

_MOST_KEPT_BYTES = 64 * 2**20
_SLICE_BYTES = 1 << 16
_LEAST_PACKED_BYTES = 1000
_LONGEST_PAUSE_SECONDS = 0.5
_FRESH_SECONDS = 1.0
# How many characters of a query's argument distinguish answers; further ones do not count.
LONGEST_ARGUMENT = 64


@dataclass(slots=True)
class KeptAnswer:
    """An answer as it was written, and packed. Both are shared: nothing is copied for each reader."""

    plain: bytes
    media_type: str
    status: int = 200
    at: float = field(default_factory=time.monotonic)
    packed: bytes = b""

    def __post_init__(self) -> None:
        if len(self.plain) >= _LEAST_PACKED_BYTES:
            self.packed = gzip.compress(self.plain, compresslevel=1, mtime=0)

    def answer(self, request: Request) -> Response:
        headers = {"Vary": "Accept-Encoding"}
        if self.packed and "gzip" in request.headers.get("accept-encoding", ""):
            return Sliced(self.packed, self.status, headers | {"Content-Encoding": "gzip"}, media_type=self.media_type)
        return Sliced(self.plain, self.status, headers, media_type=self.media_type)


class Sliced(Response):
    """Sent in slices, the next once the client has read the one before: a client that does not read holds one slice,
    not all.
    """

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        body = bytes(self.body)
        for start in range(0, max(len(body), 1), _SLICE_BYTES):
            part = body[start : start + _SLICE_BYTES]
            more = start + _SLICE_BYTES < len(body)
            await send({"type": "http.response.body", "body": part, "more_body": more})
            # Others have their turn, and it is noticed when the client has gone: each further slice would be an error.
            await asyncio.sleep(0)


class Kept:
    """The answers written last. ``basis``: what they are written from; all are dropped once it changes."""

    def __init__(self, basis: Callable[[], tuple[object, ...]]) -> None:
        self._basis = basis
        self._lock = threading.Lock()
        self._written_from: tuple[object, ...] = ()
        self._kept: dict[Hashable, KeptAnswer] = {}
        self._writing = threading.Lock()
        self._rested_at = 0.0

    def get(self, key: Hashable, write: Callable[[], KeptAnswer], *, until_changed: bool = True) -> KeptAnswer:
        """The answer for ``key``, from ``write`` if it is not kept.

        Not ``until_changed``: it is kept for a second at most.
        """
        if found := self._find(key, until_changed=until_changed):
            return found
        with self._writing:
            # It may have been written for another reader while this one waited.
            if found := self._find(key, until_changed=until_changed):
                return found
            time.sleep(max(self._rested_at - time.monotonic(), 0.0))
            basis, began = self._basis(), time.monotonic()
            found = write()
            ended = time.monotonic()
            self._rested_at = ended + min(ended - began, _LONGEST_PAUSE_SECONDS)
            if found.status == HTTPStatus.OK:
                self._keep(basis, key, found)
            return found

    def _find(self, key: Hashable, *, until_changed: bool) -> KeptAnswer | None:
        basis = self._basis()
        with self._lock:
            if not _same(basis, self._written_from):
                return None
            found = self._kept.get(key)
            fresh = found is not None and (until_changed or time.monotonic() - found.at < _FRESH_SECONDS)
            return found if fresh else None

    def _keep(self, basis: tuple[object, ...], key: Hashable, found: KeptAnswer) -> None:
        with self._lock:
            if not _same(basis, self._written_from):
                self._kept.clear()
                self._written_from = basis
            self._kept.pop(key, None)
            self._kept[key] = found
            while sum(len(one.plain) + len(one.packed) for one in self._kept.values()) > _MOST_KEPT_BYTES:
                del self._kept[next(iter(self._kept))]


def _same(one: tuple[object, ...], other: tuple[object, ...]) -> bool:
    """The first part is compared by identity: it is large, and replaced as a whole."""
    return bool(one and other) and one[0] is other[0] and one[1:] == other[1:]
