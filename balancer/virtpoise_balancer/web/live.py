"""Server-sent events: they notify a page that there is something new, and it fetches itself again."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from virtpoise_balancer.web.context import Context
from virtpoise_balancer.web.guard import counted_for
from virtpoise_balancer.web.state import Published

_LOOK_SECONDS = 0.5
_KEEPALIVE_SECONDS = 15.0
_MOST_LISTENERS = 128
_MOST_PER_ADDRESS = 64


class Live:
    """Sends server-sent events: ``cycle`` after each cycle and each order, ``flights`` while migrations run."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._listeners: Counter[str] = Counter()
        self._looked: tuple[object, ...] | None = None
        self._looked_at = 0.0

    async def events(self, request: Request) -> Response:
        address = counted_for(request)
        if self._listeners.total() >= _MOST_LISTENERS or self._listeners[address] >= _MOST_PER_ADDRESS:
            return PlainTextResponse("Too many listeners.\n", 503, {"Connection": "close"})
        return StreamingResponse(
            self._stream(address),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )

    async def _look(self) -> tuple[object, ...]:
        """What is published now; looked up at most once in half a period, for all listeners."""
        now = time.monotonic()
        if self._looked is None or now - self._looked_at >= _LOOK_SECONDS / 2:
            self._looked_at = now
            self._looked = await run_in_threadpool(_newest, self._context.published)
        return self._looked

    async def _stream(self, address: str) -> AsyncIterator[str]:
        self._listeners[address] += 1
        try:
            yield "retry: 2000\n\n"
            published = self._context.published
            seen = await self._look()
            silent = 0.0
            while not self._context.stopping():
                await asyncio.sleep(_LOOK_SECONDS)
                silent += _LOOK_SECONDS
                now = await self._look()
                event = _event(seen, now)
                seen = now
                if event is not None:
                    data = json.dumps({"cycle_at": published.state.cycle_at})
                    yield f"event: {event}\ndata: {data}\n\n"
                    silent = 0.0
                elif silent >= _KEEPALIVE_SECONDS:
                    yield ": still here\n\n"
                    silent = 0.0
        finally:
            self._listeners[address] -= 1
            if not self._listeners[address]:
                del self._listeners[address]


def _newest(published: Published) -> tuple[object, ...]:
    return (published.state, published.overrides(), published.in_flight())


def _event(seen: tuple[object, ...], now: tuple[object, ...]) -> str | None:
    if now[0] is not seen[0] or now[1] != seen[1]:
        return "cycle"
    return "flights" if now[2] != seen[2] else None
