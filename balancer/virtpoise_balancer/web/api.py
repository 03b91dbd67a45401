"""The JSON API under /api/v1: a route for each operation, the admission of orders, and the answers to errors."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import structlog
from pydantic import TypeAdapter, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from virtpoise_balancer.control.orders import Unforeseen
from virtpoise_balancer.errors import BadInput, MonitorError, NotKnown, VirtpoiseError
from virtpoise_balancer.formats import first_problem
from virtpoise_balancer.web.context import Context
from virtpoise_balancer.web.guard import Bucket, Forbidden
from virtpoise_balancer.web.operations import Answer, Operation, operations

log = structlog.get_logger()

_MOST_BODY_BYTES = 1 << 20


def routes(context: Context) -> list[Route]:
    """A route for each operation."""
    strangers = Bucket(rate=1.0, burst=20.0)
    # The longer path first: a host's name may have slashes.
    ordered = sorted(operations(context), key=lambda operation: -operation.path.count("/"))
    return [
        Route(
            operation.path,
            _order(context, operation, strangers) if operation.body is not None else _reading(operation),
            methods=[operation.method],
        )
        for operation in ordered
    ]


def _reading(operation: Operation) -> Callable[[Request], Response]:
    adapter = TypeAdapter(operation.answer)

    def endpoint(request: Request) -> Response:
        try:
            return _json(adapter, operation.run(request))
        except VirtpoiseError as error:
            return refusal(error)

    return endpoint


def _order(context: Context, operation: Operation, strangers: Bucket) -> Callable[[Request], Any]:
    answers = TypeAdapter(Answer)
    bodies = TypeAdapter(operation.body)

    def follow(request: Request, content: bytes | None) -> Response:
        """``content`` None: the body is too long."""
        target = request.path_params.get("name", "")
        try:
            by = context.gate.admit(request)
        except Forbidden as error:
            if strangers.take():
                context.orders.refuse(operation.name, target, context.gate.anybody(request), str(error))
            return refusal(error)
        if content is None:
            too_large = Forbidden(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body: expected at most {_MOST_BODY_BYTES} bytes"
            )
            context.orders.refuse(operation.name, target, by, str(too_large))
            return refusal(too_large)
        try:
            body = bodies.validate_json(content or b"{}")
        except ValidationError as error:
            why = f"the body: {first_problem(error)}"
            context.orders.refuse(operation.name, target, by, why)
            return refusal(BadInput(why))
        try:
            return _json(answers, Answer(answer=operation.run(request, body, by)))
        except Unforeseen:
            raise
        except VirtpoiseError as error:
            return refusal(error)

    def answer(request: Request, content: bytes | None) -> Response:
        try:
            return follow(request, content)
        except Exception as error:
            log.exception("an order failed in an unforeseen way", order=operation.name)
            return refusal(error if isinstance(error, Unforeseen) else Unforeseen(error))

    async def endpoint(request: Request) -> Response:
        content = bytearray()
        async for chunk in request.stream():
            content += chunk
            if len(content) > _MOST_BODY_BYTES:
                return await run_in_threadpool(answer, request, None)
        return await run_in_threadpool(answer, request, bytes(content))

    return endpoint


def refusal(error: VirtpoiseError) -> Response:
    """The answer to an error: its text, with the fitting HTTP status."""
    headers = {}
    if isinstance(error, Forbidden):
        status = error.status
        if status is HTTPStatus.UNAUTHORIZED:
            headers["WWW-Authenticate"] = 'Bearer realm="virtpoise"'
    elif isinstance(error, Unforeseen):
        status = HTTPStatus.INTERNAL_SERVER_ERROR
    elif isinstance(error, NotKnown):
        status = HTTPStatus.NOT_FOUND
    elif isinstance(error, BadInput):
        status = HTTPStatus.BAD_REQUEST
    elif isinstance(error, MonitorError):
        status = HTTPStatus.BAD_GATEWAY
    else:
        status = HTTPStatus.CONFLICT
    return JSONResponse({"error": str(error)}, status, headers)


def _json(adapter: TypeAdapter[Any], value: Any) -> Response:
    return Response(adapter.dump_json(value), media_type="application/json")
