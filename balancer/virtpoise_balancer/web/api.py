"""The JSON API under /api/v1: a route for each operation, the admission of orders, and the answers to errors."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import structlog
from anyio import CapacityLimiter, to_thread
from pydantic import TypeAdapter, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from virtpoise_balancer.control.orders import By, Unforeseen
from virtpoise_balancer.errors import BadInput, MonitorError, NotKnown, StoreError, VirtpoiseError
from virtpoise_balancer.formats import in_one_line
from virtpoise_balancer.visible import shown
from virtpoise_balancer.web.context import Context
from virtpoise_balancer.web.guard import Forbidden, refused
from virtpoise_balancer.web.kept import LONGEST_ARGUMENT, KeptAnswer
from virtpoise_balancer.web.operations import Operation, OrderAnswer, operations

log = structlog.get_logger()

_MOST_BODY_BYTES = 1 << 20
_BODY_SECONDS = 10.0
_MOST_ORDERS = 8  # that are followed at once; others wait


def routes(context: Context) -> list[Route]:
    """A route for each operation."""
    # The longer path first: a host's name may have slashes.
    ordered = sorted(operations(context), key=lambda operation: -operation.path.count("/"))
    limiter = CapacityLimiter(_MOST_ORDERS)
    return [
        Route(
            operation.path,
            _order(context, operation, limiter) if operation.body is not None else _reading(context, operation),
            methods=[operation.method],
        )
        for operation in ordered
    ]


def _reading(context: Context, operation: Operation) -> Callable[[Request], Response]:
    adapter = TypeAdapter(operation.answer)

    def endpoint(request: Request) -> Response:
        def write() -> KeptAnswer:
            return KeptAnswer(adapter.dump_json(operation.run(request)), "application/json")

        key = (request.scope["path"], request.query_params.get("limit", "")[:LONGEST_ARGUMENT])
        try:
            return context.kept.get(key, write, until_changed=operation.until_changed).answer(request)
        except VirtpoiseError as error:
            return refusal(error)

    return endpoint


def _order(context: Context, operation: Operation, limiter: CapacityLimiter) -> Callable[[Request], Any]:
    answers = TypeAdapter(OrderAnswer)
    bodies = TypeAdapter(operation.body)

    def follow(request: Request, by: By, content: bytes) -> Response:
        target = request.path_params.get("name", "")
        try:
            body = bodies.validate_json(content or b"{}")
        except ValidationError as error:
            why = f"the body: {in_one_line(error)}"
            context.orders.refuse(operation.name, target, by, why)
            return refusal(BadInput(why))
        try:
            return _json(answers, OrderAnswer(answer=operation.run(request, body, by)))
        except Unforeseen:
            raise
        except VirtpoiseError as error:
            return refusal(error)

    def answer(request: Request, by: By, content: bytes) -> Response:
        try:
            return follow(request, by, content)
        except Exception as error:
            log.exception("an order failed in an unforeseen way", order=operation.name)
            return refusal(error if isinstance(error, Unforeseen) else Unforeseen(error))

    async def endpoint(request: Request) -> Response:
        """Nothing of the body is read before the order is admitted."""
        target = shown(request.path_params.get("name", ""))
        try:
            by = context.gate.admit(request, operation.role)
        except Forbidden as error:
            origin = context.gate.anybody(request).origin
            await to_thread.run_sync(
                context.strangers.refused, operation.name, target, origin, str(error), limiter=limiter
            )
            return refusal(error)
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                content = await _body(request)
        except (ClientDisconnect, TimeoutError):
            late = Forbidden(HTTPStatus.REQUEST_TIMEOUT, f"the body: expected within {_BODY_SECONDS:g} s")
            return refusal(late)
        except Forbidden as error:
            await to_thread.run_sync(context.orders.refuse, operation.name, target, by, str(error), limiter=limiter)
            return refusal(error)
        return await to_thread.run_sync(answer, request, by, content, limiter=limiter)

    return endpoint


async def _body(request: Request) -> bytes:
    """The request's body. Forbidden when there is more than anybody needs, ClientDisconnect when it does not come."""
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > _MOST_BODY_BYTES:
            raise Forbidden(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body: expected at most {_MOST_BODY_BYTES} bytes")
    return bytes(content)


def refusal(error: VirtpoiseError) -> Response:
    """The answer to what cannot be done: the reason, with the status that fits it."""
    if isinstance(error, Forbidden):
        return refused(error)
    if isinstance(error, Unforeseen):
        status = HTTPStatus.INTERNAL_SERVER_ERROR
    elif isinstance(error, NotKnown):
        status = HTTPStatus.NOT_FOUND
    elif isinstance(error, BadInput):
        status = HTTPStatus.BAD_REQUEST
    elif isinstance(error, StoreError):
        status = HTTPStatus.SERVICE_UNAVAILABLE
    elif isinstance(error, MonitorError):
        status = HTTPStatus.BAD_GATEWAY
    else:
        status = HTTPStatus.CONFLICT
    return JSONResponse({"error": str(error)}, status)


def _json(adapter: TypeAdapter[Any], value: Any) -> Response:
    return Response(adapter.dump_json(value), media_type="application/json")
