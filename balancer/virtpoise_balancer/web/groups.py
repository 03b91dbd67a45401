"""Which group a request is about, and what is about all of them at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from virtpoise_balancer.model import Mode
from virtpoise_balancer.visible import shown
from virtpoise_balancer.web.context import Context
from virtpoise_balancer.web.guard import Gate, refused

API = "/api/"
_MOST_SHOWN = 100
# What is the same for all groups, or for none.
_OF_ANY = ("/static/", "/runbooks", "/api/v1/openapi.json", "/api/v1/groups")


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupStatus:
    """One group in short."""

    name: str
    mode: Mode
    paused: bool
    brake: bool
    cycle_at: float | None
    result: str
    sentence: str
    hosts: int


def group_statuses(contexts: Sequence[Context]) -> tuple[GroupStatus, ...]:
    """All groups, in the order of the configuration. Empty where it has none."""
    return tuple(_status(context) for context in contexts if context.group)


def _status(context: Context) -> GroupStatus:
    published, state = context.published, context.published.state
    return GroupStatus(
        name=context.group,
        mode=published.mode,
        paused=published.overrides().paused is not None,
        brake=published.brake is not None,
        cycle_at=state.cycle_at,
        result=state.result,
        sentence=state.sentence,
        hosts=len(state.snapshot.hosts) if state.snapshot else 0,
    )


class KnownGroup:
    """Refuses each request whose query names no group of the configuration (404), or several (400).

    ``groups``: their names; the empty one alone where the configuration has none.
    """

    def __init__(self, app: ASGIApp, groups: Sequence[str], gate: Gate) -> None:
        self._app = app
        self._groups = groups
        self._gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        wrong = self._wrong(Request(scope)) if scope["type"] == "http" else None
        await (wrong or self._app)(scope, receive, send)

    def _wrong(self, request: Request) -> Response | None:
        given = request.query_params.getlist("group")
        if len(given) > 1:
            return JSONResponse({"error": f"group: expected once, got {len(given)} times"}, 400)
        if given and given[0] not in self._groups:
            if error := self._gate.hides_names(request):
                return refused(error)
            got = shown(given[0][:_MOST_SHOWN])
            return JSONResponse({"error": f"group: expected {_expected(request, self._groups)}, got '{got}'"}, 404)
        return None


def _expected(request: Request, groups: Sequence[str]) -> str:
    """Names no group to who may not read: an order is judged by its token only later."""
    if not any(groups):
        return "none, since the configuration has no groups"
    return f"one of {', '.join(groups)}" if request.method in ("GET", "HEAD") else "one of the configuration's"


class ByGroup:
    """Hands each request to the application of its group: that of the query's ``group``, else the one that has the host
    or the domain in the path. A page without either is of the first group.
    """

    def __init__(self, apps: Mapping[str, ASGIApp], contexts: Sequence[Context]) -> None:
        self._apps = apps
        self._contexts = contexts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._apps[self._contexts[0].group](scope, receive, send)
            return
        request = Request(scope)
        given = request.query_params.get("group")
        name = given if given is not None else self._named_by(scope["path"])
        if name is None and not scope["path"].startswith(API):
            name = self._contexts[0].group
        if name is None:
            why = f"group: expected {_expected(request, tuple(self._apps))}, got none"
            error = self._contexts[0].gate.hides_names(request)
            await (refused(error) if error else JSONResponse({"error": why}, 400))(scope, receive, send)
        else:
            await self._apps[name](scope, receive, send)

    def _named_by(self, path: str) -> str | None:
        """The group that the path names by a host or a domain, or that any would do for."""
        if path.startswith(_OF_ANY):
            return self._contexts[0].group
        place = path.removeprefix(API).partition("/")[2] if path.startswith(API) else path.removeprefix("/")
        kind, _, name = place.partition("/")
        if kind not in ("hosts", "domains", "explain") or not name:
            return None
        names = {name, *(name.removesuffix(f"/{order}") for order in _ORDERS)}
        found = [one.group for one in self._contexts if _has(one, kind, names)]
        return found[0] if len(found) == 1 else None


_ORDERS = ("drain", "undrain", "acknowledge")


def _has(context: Context, kind: str, names: set[str]) -> bool:
    state = context.published.state
    snapshot = state.snapshot
    if kind != "domains":
        if snapshot and any(host.name in names for host in snapshot.hosts):
            return True
        if any(state.drains[name].group == context.group for name in names & state.drains.keys()):
            return True
        if kind == "hosts":
            return False
    if any(one.uuid in names or one.domain in names for one in state.unsettled):
        return True
    return snapshot is not None and any(one.uuid in names or one.name in names for one in snapshot.domains)


class OfGroups(Collector):
    """The metrics of all groups, each sample with its group as a label."""

    def __init__(self, contexts: Sequence[Context]) -> None:
        self._contexts = contexts

    def describe(self) -> Iterator[Metric]:
        return iter(())

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        for context in self._contexts:
            for family in context.metrics.registry.collect():
                found = families.setdefault(family.name, _empty(family))
                for one in family.samples:
                    labels = {"group": context.group, **one.labels} if context.group else one.labels
                    found.samples.append(one._replace(labels=labels))
        yield from families.values()


def _empty(family: Metric) -> Metric:
    return Metric(family.name, family.documentation, family.type, family.unit)
