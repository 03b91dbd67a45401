"""An address that asks for much does not keep the others waiting."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.types import Message, Scope

from virtpoise_balancer.config import Web
from virtpoise_balancer.web.fair import MOST_ANSWERED_AT_ONCE, MOST_ASKED, FairAnswers
from virtpoise_balancer.web.guard import Gate, Guard

GREEDY, HONEST = "192.0.2.7", "192.0.2.8"

T = TypeVar("T")


def run(attack: Coroutine[None, None, T]) -> T:
    """What it returns. It runs in a thread of its own: other tests leave an event loop in the main one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, attack).result()


class Slow:
    """An application whose pages are written once the test says so."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.begun: list[str] = []
        self.both = threading.Event()
        self.guard = Guard(Starlette(routes=[Route("/{name}", self.write)]), Gate(Web(listen_address="0.0.0.0:9808")))

    def write(self, request: Request) -> PlainTextResponse:
        assert request.client is not None
        self.begun.append(request.client.host)
        if request.client.host == GREEDY:
            if len(self.begun) == MOST_ANSWERED_AT_ONCE:
                self.both.set()
            assert self.go_on.wait(30)
        return PlainTextResponse("written")

    async def ask(self, address: str, path: str) -> int:
        """The status of the answer."""
        statuses = []

        async def send(message: Message) -> None:
            statuses.append(message.get("status"))

        async def receive() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        scope: Scope = {
            "type": "http",
            "method": "GET",
            "path": path,
            "root_path": "",
            "query_string": b"",
            "headers": [(b"host", b"here")],
            "client": (address, 1),
            "server": ("here", 9808),
            "scheme": "http",
        }
        await self.guard(scope, receive, send)
        return int(statuses[0] or 0)


def test_pages_that_one_address_asks_for_keep_no_other_waiting() -> None:
    slow = Slow()

    async def attack() -> list[int]:
        flood = [asyncio.create_task(slow.ask(GREEDY, f"/page{n}")) for n in range(100)]
        assert await asyncio.to_thread(slow.both.wait, 30)
        assert await slow.ask(HONEST, "/metrics") == await slow.ask(HONEST, "/page0") == 200
        assert await slow.ask(GREEDY, "/-/healthy") == 404  # of another kind: it does not wait for the pages
        assert slow.begun == [GREEDY] * MOST_ANSWERED_AT_ONCE + [HONEST] * 2
        slow.go_on.set()
        return await asyncio.gather(*flood)

    assert run(attack()) == [200] * 100


def test_more_than_an_address_can_wait_for_is_refused_and_forgotten() -> None:
    async def attack() -> None:
        answers, release = FairAnswers(), asyncio.Event()
        refused = []

        async def ask(address: str) -> None:
            async with answers.turn(address) as written:
                if written is None:
                    refused.append(address)
                else:
                    await release.wait()

        waiting = [asyncio.create_task(ask(GREEDY)) for _ in range(MOST_ASKED + 5)]
        honest = asyncio.create_task(ask(HONEST))
        await asyncio.sleep(0)
        assert refused == [GREEDY] * 5
        for task in waiting[10:20]:
            task.cancel()
        release.set()
        await asyncio.gather(*waiting, honest, return_exceptions=True)
        assert refused == [GREEDY] * 5
        assert answers._asking == {}

    run(attack())


def test_a_turn_ends_once_the_answer_is_written_and_not_when_it_is_read() -> None:
    async def attack() -> None:
        answers, read = FairAnswers(), asyncio.Event()

        async def ask() -> None:
            async with answers.turn(GREEDY) as written:
                assert written is not None
                written()
                written()  # again: it has ended
                await read.wait()

        slow = [asyncio.create_task(ask()) for _ in range(MOST_ANSWERED_AT_ONCE * 3)]
        async with answers.turn(GREEDY) as written:
            assert written is not None
        read.set()
        await asyncio.gather(*slow)

    run(attack())
