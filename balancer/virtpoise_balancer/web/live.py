"""Server-sent events: they notify a page that there is something new, and it fetches itself again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from virtpoise_balancer.web.context import Context
from virtpoise_balancer.web.state import Published

_LOOK_SECONDS = 0.5
_KEEPALIVE_SECONDS = 15.0
_MOST_LISTENERS = 128


class Live:
    """``cycle`` events after each cycle and each order, ``flights`` events while migrations run."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._listeners = 0

    async def events(self, _request: Request) -> Response:
        if self._listeners >= _MOST_LISTENERS:
            return PlainTextResponse("Too many listeners.\n", 503)
        return StreamingResponse(
            self._stream(),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )

    async def _stream(self) -> AsyncIterator[str]:
        self._listeners += 1
        try:
            yield "retry: 2000\n\n"
            published = self._context.published
            seen = await run_in_threadpool(_newest, published)
            silent = 0.0
            while not self._context.stopping():
                await asyncio.sleep(_LOOK_SECONDS)
                silent += _LOOK_SECONDS
                now = await run_in_threadpool(_newest, published)
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
            self._listeners -= 1


def _newest(published: Published) -> tuple[object, ...]:
    return (published.state, published.overrides(), published.in_flight())


def _event(seen: tuple[object, ...], now: tuple[object, ...]) -> str | None:
    if now[0] is not seen[0] or now[1] != seen[1]:
        return "cycle"
    return "flights" if now[2] != seen[2] else None
