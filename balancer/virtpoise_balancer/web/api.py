"""The JSON API under /api/v1: one table of operations, from which the routes and the OpenAPI document are made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Annotated, Any, Literal

import structlog
from annotated_types import MaxLen, MinLen
from pydantic import TypeAdapter, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from virtpoise_balancer.control.orders import By, Unforeseen
from virtpoise_balancer.errors import BadInput, MonitorError, NotKnown, Refused, VirtpoiseError
from virtpoise_balancer.explain.explain import Explanation, explain, not_seen, of_domain, of_host
from virtpoise_balancer.formats import first_problem
from virtpoise_balancer.knowledge.steering import Action, Mode
from virtpoise_balancer.knowledge.store import MigrationRecord
from virtpoise_balancer.model import STRICT, Domain, Name, Plan, Snapshot
from virtpoise_balancer.web.context import Context
from virtpoise_balancer.web.discovery import Targets, targets
from virtpoise_balancer.web.guard import Bucket, Forbidden
from virtpoise_balancer.web.state import HostStatus, State, Status, host_statuses, status

log = structlog.get_logger()

PREFIX = "/api/v1"
MOST_RECORDS = 1000
_MOST_BODY_BYTES = 1 << 20
_MOST_MOVES = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Error:
    """What is wrong, in words."""

    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What was done, in words."""

    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CurrentPlan:
    """The newest cycle's plan and when it was made (Unix seconds); null while there is none."""

    at: float | None
    plan: Plan | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HostDetail:
    """A host, its newest readings of the CPU (oldest first, ``step_seconds`` apart), and why it is (not) relieved or a destination."""

    status: HostStatus
    step_seconds: float
    cpu_ratio: tuple[float, ...]
    explanation: Explanation


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainDetail:
    """A domain, why it is (not) moved, and its migrations, newest first."""

    domain: Domain
    explanation: Explanation
    migrations: tuple[MigrationRecord, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """One move of the plan."""

    __pydantic_config__ = STRICT
    uuid: Name
    destination: Name


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplyBody:
    """The moves to make: all of the plan, or a part that can be made by itself."""

    __pydantic_config__ = STRICT
    moves: Annotated[tuple[Wanted, ...], MinLen(1), MaxLen(_MOST_MOVES)]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeBody:
    __pydantic_config__ = STRICT
    mode: Mode


@dataclass(frozen=True, slots=True, kw_only=True)
class NoBody:
    """An empty object."""

    __pydantic_config__ = STRICT


@dataclass(frozen=True, slots=True)
class Parameter:
    """Of a path or a query; ``schema`` as JSON Schema has it."""

    name: str
    place: Literal["path", "query"]
    text: str
    schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "string", "minLength": 1})


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """``run`` takes the request; that of an order also the body and who ordered, and gives the answer in words."""

    method: Literal["GET", "POST"]
    path: str
    name: str
    summary: str
    answer: Any
    run: Callable[..., Any]
    parameters: tuple[Parameter, ...] = ()
    body: Any = None

    @property
    def public_path(self) -> str:
        return self.path.replace(":path}", "}")


LIMIT = Parameter(
    "limit",
    "query",
    "How many, the newest first.",
    {"type": "integer", "minimum": 1, "maximum": MOST_RECORDS, "default": 20},
)
HOST = Parameter("name", "path", "The host's name.")
DOMAIN = Parameter("name", "path", "The domain's uuid, or its name where only one has it.")


def operations(context: Context) -> tuple[Operation, ...]:
    """All operations of the API."""
    board, store, orders = context.board, context.store, context.orders

    def show_status(_request: Request) -> Status:
        return status(board)

    def show_plan(_request: Request) -> CurrentPlan:
        state = board.state
        return CurrentPlan(at=state.cycle_at if state.plan else None, plan=state.plan)

    def show_snapshot(_request: Request) -> Snapshot:
        return _seen(board.state)

    def show_hosts(_request: Request) -> tuple[HostStatus, ...]:
        return host_statuses(board.state)

    def show_host(request: Request) -> HostDetail:
        return host_detail(board.state, request.path_params["name"])

    def show_domains(_request: Request) -> tuple[Domain, ...]:
        return board.state.snapshot.domains if board.state.snapshot else ()

    def show_domain(request: Request) -> DomainDetail:
        return domain_detail(context, request.path_params["name"])

    def show_why(request: Request) -> tuple[Explanation, ...]:
        state, name = board.state, request.path_params["name"]
        found = explain(_seen(state), state.policy, _planned(state), name)
        if not found:
            raise NotKnown(not_seen(_seen(state), name))
        return found

    def show_history(request: Request) -> tuple[MigrationRecord, ...]:
        return store.history(limit(request))

    def show_actions(request: Request) -> tuple[Action, ...]:
        return store.actions(limit(request))

    def drain(request: Request, _body: NoBody, by: By) -> str:
        return orders.drain(request.path_params["name"], by)

    def undrain(request: Request, _body: NoBody, by: By) -> str:
        return orders.undrain(request.path_params["name"], by)

    def pause(_request: Request, _body: NoBody, by: By) -> str:
        return orders.pause(by)

    def resume(_request: Request, _body: NoBody, by: By) -> str:
        return orders.resume(by)

    def set_mode(_request: Request, body: ModeBody, by: By) -> str:
        return orders.set_mode(body.mode, by)

    def apply(_request: Request, body: ApplyBody, by: By) -> str:
        return orders.apply({(move.uuid, move.destination) for move in body.moves}, by)

    def get(
        path: str, name: str, summary: str, answer: Any, run: Callable[..., Any], *parameters: Parameter
    ) -> Operation:
        return Operation(
            method="GET", path=PREFIX + path, name=name, summary=summary, answer=answer, run=run, parameters=parameters
        )

    def post(
        path: str, name: str, summary: str, body: Any, run: Callable[..., str], *parameters: Parameter
    ) -> Operation:
        return Operation(
            method="POST",
            path=PREFIX + path,
            name=name,
            summary=summary,
            answer=Answer,
            run=run,
            body=body,
            parameters=parameters,
        )

    return (
        get("/status", "status", "What the balancer sees, does and waits for.", Status, show_status),
        get("/plan", "plan", "The newest cycle's plan.", CurrentPlan, show_plan),
        get("/snapshot", "snapshot", "The group as the newest cycle saw it.", Snapshot, show_snapshot),
        get("/hosts", "hosts", "All hosts.", tuple[HostStatus, ...], show_hosts),
        get("/hosts/{name:path}", "host", "One host.", HostDetail, show_host, HOST),
        get("/domains", "domains", "All domains.", tuple[Domain, ...], show_domains),
        get("/domains/{name:path}", "domain", "One domain.", DomainDetail, show_domain, DOMAIN),
        get(
            "/explain/{name:path}",
            "explain",
            "Why a domain is (not) moved, or a host (not) relieved and (not) a destination.",
            tuple[Explanation, ...],
            show_why,
            Parameter("name", "path", "A host's or domain's name, or a domain's uuid."),
        ),
        get("/history", "history", "The migrations.", tuple[MigrationRecord, ...], show_history, LIMIT),
        get("/actions", "actions", "The orders, followed or refused.", tuple[Action, ...], show_actions, LIMIT),
        Operation(
            method="GET",
            path="/sd/hosts",
            name="discovery",
            summary="The hosts' exporters, for Prometheus' HTTP service discovery.",
            answer=tuple[Targets, ...],
            run=lambda _request: targets(context.config(), board.state.snapshot),
        ),
        post("/plan/apply", "apply", "Make moves of the plan, once a fresh look has confirmed them.", ApplyBody, apply),
        post(
            "/hosts/{name:path}/drain",
            "drain",
            "Move all running domains off a host and keep it empty.",
            NoBody,
            drain,
            HOST,
        ),
        post(
            "/hosts/{name:path}/undrain", "undrain", "Take a drained host back into the group.", NoBody, undrain, HOST
        ),
        post("/pause", "pause", "Begin no migration until resumed, even after a restart.", NoBody, pause),
        post("/resume", "resume", "Take a pause back.", NoBody, resume),
        post("/mode", "mode", "Only recommend moves, or make them.", ModeBody, set_mode),
    )


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
        """``content`` None: there is more than anybody needs."""
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
    """The answer to what cannot be done: the reason, with the status that fits it."""
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


def limit(request: Request, default: int = 20) -> int:
    """The query's ``limit``; BadInput when it is none."""
    given = request.query_params.get("limit", str(default))
    if not given.isascii() or not given.isdigit() or not 1 <= int(given) <= MOST_RECORDS:
        raise BadInput(f"limit: expected 1 to {MOST_RECORDS}, got {given!r}")
    return int(given)


def host_detail(state: State, name: str) -> HostDetail:
    snapshot = _seen(state)
    host = snapshot.host(name)
    if host is None:
        raise NotKnown(f"{name}: no such host is scraped")
    (found,) = (one for one in host_statuses(state) if one.name == name)
    return HostDetail(
        status=found,
        step_seconds=snapshot.step_seconds,
        cpu_ratio=host.cpu_ratio,
        explanation=of_host(snapshot, state.policy, _planned(state), host),
    )


def domain_detail(context: Context, name: str) -> DomainDetail:
    state = context.board.state
    snapshot = _seen(state)
    found = [domain for domain in snapshot.domains if domain.uuid == name]
    found = found or [domain for domain in snapshot.domains if domain.name == name]
    if not found:
        raise NotKnown(f"{name}: no domain of the group has this name or uuid")
    if len(found) > 1:
        raise NotKnown(
            f"{name}: more than one domain has this name: ask by uuid ({', '.join(d.uuid for d in found[:5])})"
        )
    (domain,) = found
    return DomainDetail(
        domain=domain,
        explanation=of_domain(snapshot, state.policy, _planned(state), domain),
        migrations=context.store.history(MOST_RECORDS, uuid=domain.uuid),
    )


def _seen(state: State) -> Snapshot:
    if state.snapshot is None:
        raise Refused(f"the newest cycle has seen nothing: {state.sentence}")
    return state.snapshot


def _planned(state: State) -> Plan:
    """The newest plan; while migrations run there is none, and nothing is judged."""
    if state.plan is not None:
        return state.plan
    return Plan(strategy=state.policy.strategy, solved=True, summary=state.sentence)
