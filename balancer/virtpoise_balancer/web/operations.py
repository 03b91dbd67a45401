"""The API's operations: one table, from which the routes and the OpenAPI document are made."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

from annotated_types import MaxLen, MinLen
from starlette.requests import Request

from virtpoise_balancer.analyse.others import OthersChange
from virtpoise_balancer.control.orders import By
from virtpoise_balancer.errors import BadInput, NotKnown
from virtpoise_balancer.explain.explain import Explanation, explain, not_seen
from virtpoise_balancer.knowledge.records import Action, MigrationRecord
from virtpoise_balancer.model import STRICT, Domain, Mode, Name, Plan, Snapshot
from virtpoise_balancer.tokens import TokenRole
from virtpoise_balancer.visible import shown
from virtpoise_balancer.web.context import MOST_RECORDS, Context
from virtpoise_balancer.web.detail import DomainDetail, HostDetail, domain_detail, host_detail, planned, seen
from virtpoise_balancer.web.discovery import Targets, targets
from virtpoise_balancer.web.groups import GroupStatus, group_statuses
from virtpoise_balancer.web.state import HostStatus, Status, status

PREFIX = "/api/v1"
_MOST_MOVES = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Error:
    """What is wrong, in one sentence."""

    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderAnswer:
    """What was done, in one sentence."""

    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CurrentPlan:
    """The newest cycle's plan and when it was made (Unix seconds); null while there is none."""

    at: float | None
    plan: Plan | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """One move of the plan."""

    __pydantic_config__ = STRICT
    uuid: Name
    destination: Name


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplyBody:
    """The moves to make: the whole plan, or a part that contains all that its moves need."""

    __pydantic_config__ = STRICT
    moves: Annotated[tuple[Wanted, ...], MinLen(1), MaxLen(_MOST_MOVES)]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeBody:
    """The body of an order to change the mode."""

    __pydantic_config__ = STRICT
    mode: Mode


@dataclass(frozen=True, slots=True, kw_only=True)
class EmptyBody:
    """An empty object."""

    __pydantic_config__ = STRICT


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter in a path or a query. ``schema``: its JSON Schema."""

    name: str
    place: Literal["path", "query"]
    text: str
    schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "string", "minLength": 1})


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One operation of the API, from which its route and its OpenAPI description are made.

    ``run`` takes the request, and for an order also the body and who gives it; an order returns a sentence.

    ``role``: what a token needs; ``until_changed``: whether the answer depends on the published state alone.
    """

    method: Literal["GET", "POST"]
    path: str
    name: str
    summary: str
    answer: Any
    run: Callable[..., Any]
    parameters: tuple[Parameter, ...] = ()
    body: Any = None
    role: TokenRole = "read"
    until_changed: bool = True

    @property
    def public_path(self) -> str:
        return self.path.replace(":path}", "}")


LIMIT = Parameter(
    "limit",
    "query",
    "How many, newest first.",
    {"type": "integer", "minimum": 1, "maximum": MOST_RECORDS, "default": 20},
)
HOST = Parameter("name", "path", "The host's name.")
GROUP = Parameter("group", "query", "The group of hosts. A host or domain in the path names it as well.")
DOMAIN = Parameter("name", "path", "The domain's uuid, or its name if only one domain has it.")


def operations(context: Context) -> tuple[Operation, ...]:
    """All operations of the API."""
    published, store, orders = context.published, context.store, context.orders

    def show_status(_request: Request) -> Status:
        return status(published)

    def show_plan(_request: Request) -> CurrentPlan:
        state = published.state
        return CurrentPlan(at=state.cycle_at if state.plan else None, plan=state.plan)

    def show_snapshot(_request: Request) -> Snapshot:
        return seen(published.state)

    def show_groups(_request: Request) -> tuple[GroupStatus, ...]:
        return group_statuses(context.every())

    def show_hosts(_request: Request) -> tuple[HostStatus, ...]:
        return published.statuses(published.state)

    def show_host(request: Request) -> HostDetail:
        state = published.state
        return host_detail(state, published.statuses(state), request.path_params["name"])

    def show_domains(_request: Request) -> tuple[Domain, ...]:
        return published.state.snapshot.domains if published.state.snapshot else ()

    def show_domain(request: Request) -> DomainDetail:
        return domain_detail(context, request.path_params["name"])

    def show_why(request: Request) -> tuple[Explanation, ...]:
        state, name = published.state, request.path_params["name"]
        found = explain(seen(state), state.policy, planned(state), name)
        if not found:
            raise NotKnown(not_seen(seen(state), name))
        return found

    def show_history(request: Request) -> tuple[MigrationRecord, ...]:
        return store.history(limit(request))

    def show_actions(request: Request) -> tuple[Action, ...]:
        return store.actions(limit(request))

    def show_others(request: Request) -> tuple[OthersChange, ...]:
        return store.others(limit(request))

    def drain(request: Request, _body: EmptyBody, by: By) -> str:
        return orders.drain(request.path_params["name"], by)

    def undrain(request: Request, _body: EmptyBody, by: By) -> str:
        return orders.undrain(request.path_params["name"], by)

    def acknowledge(request: Request, _body: EmptyBody, by: By) -> str:
        return orders.acknowledge(request.path_params["name"], by)

    def pause(_request: Request, _body: EmptyBody, by: By) -> str:
        return orders.pause(by)

    def resume(_request: Request, _body: EmptyBody, by: By) -> str:
        return orders.resume(by)

    def release(_request: Request, _body: EmptyBody, by: By) -> str:
        return orders.release(by)

    def set_mode(_request: Request, body: ModeBody, by: By) -> str:
        return orders.set_mode(body.mode, by)

    def apply(_request: Request, body: ApplyBody, by: By) -> str:
        return orders.apply({(move.uuid, move.destination) for move in body.moves}, by)

    def get(
        path: str,
        name: str,
        summary: str,
        answer: Any,
        run: Callable[..., Any],
        *parameters: Parameter,
        until_changed: bool = True,
    ) -> Operation:
        return Operation(
            method="GET",
            path=PREFIX + path,
            name=name,
            summary=summary,
            answer=answer,
            run=run,
            parameters=parameters,
            until_changed=until_changed,
        )

    def post(
        path: str,
        name: str,
        summary: str,
        body: Any,
        run: Callable[..., str],
        *parameters: Parameter,
        role: TokenRole = "order",
    ) -> Operation:
        return Operation(
            method="POST",
            path=PREFIX + path,
            name=name,
            summary=summary,
            answer=OrderAnswer,
            run=run,
            body=body,
            parameters=parameters,
            role=role,
        )

    every = (
        get("/status", "status", "The balancer's hosts, its mode, and what it does or waits for.", Status, show_status),
        get("/plan", "plan", "The newest cycle's plan.", CurrentPlan, show_plan),
        get("/snapshot", "snapshot", "The newest cycle's snapshot.", Snapshot, show_snapshot),
        get(
            "/groups",
            "groups",
            "The groups of hosts, in short; none where the configuration has none.",
            tuple[GroupStatus, ...],
            show_groups,
            until_changed=False,
        ),
        get("/hosts", "hosts", "All hosts.", tuple[HostStatus, ...], show_hosts),
        get("/hosts/{name:path}", "host", "One host.", HostDetail, show_host, HOST),
        get("/domains", "domains", "All domains.", tuple[Domain, ...], show_domains),
        get("/domains/{name:path}", "domain", "One domain.", DomainDetail, show_domain, DOMAIN, until_changed=False),
        get(
            "/explain/{name:path}",
            "explain",
            "Why a domain is (not) migrated, or a host (not) relieved and (not) a destination.",
            tuple[Explanation, ...],
            show_why,
            Parameter("name", "path", "A host's or domain's name, or a domain's uuid."),
        ),
        get(
            "/history",
            "history",
            "The migrations.",
            tuple[MigrationRecord, ...],
            show_history,
            LIMIT,
            until_changed=False,
        ),
        get(
            "/actions",
            "actions",
            "The orders, followed or refused.",
            tuple[Action, ...],
            show_actions,
            LIMIT,
            until_changed=False,
        ),
        get(
            "/others",
            "others",
            "Migrations, starts and stops that are not the balancer's.",
            tuple[OthersChange, ...],
            show_others,
            LIMIT,
            until_changed=False,
        ),
        Operation(
            method="GET",
            path="/sd/hosts",
            name="discovery",
            summary="The hosts' exporters, for Prometheus' HTTP service discovery.",
            answer=tuple[Targets, ...],
            run=lambda _request: targets([(context.config(), published.state.snapshot)]),
            until_changed=False,
        ),
        post(
            "/plan/apply", "apply", "Make moves of the plan, after checking them against fresh data.", ApplyBody, apply
        ),
        post(
            "/hosts/{name:path}/drain",
            "drain",
            "Evacuate a host: migrate all running domains off it, and keep it empty.",
            EmptyBody,
            drain,
            HOST,
        ),
        post("/hosts/{name:path}/undrain", "undrain", "Return a drained host to the group.", EmptyBody, undrain, HOST),
        post(
            "/domains/{name:path}/acknowledge",
            "acknowledge",
            "End the wait for a domain that was lost in a migration, or whose migration has no known end.",
            EmptyBody,
            acknowledge,
            DOMAIN,
        ),
        post("/pause", "pause", "Start no migration until resumed, even after a restart.", EmptyBody, pause),
        post("/resume", "resume", "End a pause.", EmptyBody, resume),
        post(
            "/release",
            "release",
            "Release the brake, so that moves are made again.",
            EmptyBody,
            release,
            role="mode",
        ),
        post("/mode", "mode", "Only recommend moves, or make them.", ModeBody, set_mode, role="mode"),
    )
    if not context.group:
        return every
    return tuple(replace(one, parameters=(*one.parameters, GROUP)) for one in every)


def limit(request: Request, default: int = 20) -> int:
    """The query's ``limit``; BadInput if it is not a number in range."""
    given = request.query_params.get("limit", str(default))
    if not re.fullmatch(r"[0-9]{1,6}", given) or not 1 <= int(given) <= MOST_RECORDS:
        raise BadInput(f"limit: expected 1 to {MOST_RECORDS}, got '{shown(given)}'")
    return int(given)
