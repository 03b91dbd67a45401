"""Passwords are verified one at a time, since bcrypt is slow by design, and each address has its turn."""

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

MOST_WAITING_OF_AN_ADDRESS = 4

_Asked = tuple[Callable[[], bool], "asyncio.Future[bool]"]


class Turns:
    """One thread that verifies. Who guesses passwords waits for its own guesses; other addresses do not."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="verify")
        self._waiting: dict[str, deque[_Asked]] = {}  # by address, the one whose turn is next first
        self._running: asyncio.Task[None] | None = None

    async def verify(self, address: str, verify: Callable[[], bool]) -> bool | None:
        """What ``verify`` returns; None if as many of this address wait already as may wait."""
        waiting = self._waiting.setdefault(address, deque())
        if len(waiting) >= MOST_WAITING_OF_AN_ADDRESS:
            return None
        result: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        waiting.append((verify, result))
        self._start_next()
        return await result

    def _start_next(self) -> None:
        while self._waiting and self._running is None:
            address = next(iter(self._waiting))
            waiting = self._waiting.pop(address)
            verify, result = waiting.popleft()
            if waiting:
                self._waiting[address] = waiting  # as the last
            if not result.done():  # else its connection has ended
                self._running = asyncio.get_running_loop().create_task(self._run(verify, result))

    async def _run(self, verify: Callable[[], bool], result: "asyncio.Future[bool]") -> None:
        try:
            verified = await asyncio.get_running_loop().run_in_executor(self._thread, verify)
        except Exception as error:
            if not result.done():
                result.set_exception(error)
        else:
            if not result.done():
                result.set_result(verified)
        self._running = None
        self._start_next()
