"""How many requests of one address are answered at once. Who asks for much waits for its own answers, and keeps no
other address waiting for them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from virtpoise_balancer.web.connections import MOST_PER_ADDRESS

# Answers are written one at a time, so more would only stand before others.
MOST_ANSWERED_AT_ONCE = 2
# As many connections as an address may have, and as many whose client has hung up: their answers are written all the
# same, since nothing shows that before.
MOST_ASKED = 2 * MOST_PER_ADDRESS


@dataclass(slots=True)
class _Asking:
    """The requests of one address that are not over yet."""

    room: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MOST_ANSWERED_AT_ONCE))
    count: int = 0


class FairAnswers:
    """The requests of each address. Used in the server's thread alone."""

    def __init__(self) -> None:
        self._asking: dict[str, _Asking] = {}

    @asynccontextmanager
    async def turn(self, address: str) -> AsyncIterator[Callable[[], None] | None]:
        """A request's turn, from when it may be answered on. What it yields ends the turn before the block does, once
        the answer is written; None if too many of this address wait.
        """
        asking = self._asking.setdefault(address, _Asking())
        if asking.count >= MOST_ASKED:
            yield None
            return
        asking.count += 1
        try:
            await asking.room.acquire()
            ended = False

            def end() -> None:
                nonlocal ended
                if not ended:
                    ended = True
                    asking.room.release()

            try:
                yield end
            finally:
                end()
        finally:
            asking.count -= 1
            if not asking.count:
                del self._asking[address]
