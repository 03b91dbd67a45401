"""Writes the pages from their templates. All that comes from outside is escaped there."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from virtpoise_balancer import __version__
from virtpoise_balancer.explain import wording
from virtpoise_balancer.model import count_samples
from virtpoise_balancer.visible import visible_lines
from virtpoise_balancer.web.context import Context
from virtpoise_balancer.web.groups import group_statuses
from virtpoise_balancer.web.kept import KeptAnswer
from virtpoise_balancer.web.page.flights import flight_cards
from virtpoise_balancer.web.page.parts import WIDTH, clock, host_link, iso
from virtpoise_balancer.web.state import State, flights

_HTML = "text/html; charset=utf-8"
_STATIC = {"style.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}


class Writer:
    """The templates with what all pages have: the header, running migrations, and whether orders are possible."""

    def __init__(self, context: Context) -> None:
        self.context = context
        folder = files("virtpoise_balancer.web") / "static"
        self._static = {name: KeptAnswer((folder / name).read_bytes(), kind) for name, kind in _STATIC.items()}
        self._templates = Environment(
            loader=PackageLoader("virtpoise_balancer.web"),
            autoescape=True,
            finalize=lambda value: visible_lines(value) if type(value) is str else value,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.globals.update(
            program=__version__,
            files=hashlib.sha256(b"".join(file.plain for file in self._static.values())).hexdigest()[:12],
            iso=iso,
            clock=clock,
            WIDTH=WIDTH,
            host_link=host_link,
            count_samples=count_samples,
        )
        self._templates.filters.update(percent=wording.percent, size=wording.size, duration=wording.duration)

    @property
    def state(self) -> State:
        return self.context.published.state

    def text(self, request: Request, template: str, **values: Any) -> str:
        """The page as HTML."""
        published = self.context.published
        state = published.state
        overrides = published.overrides()
        return self._templates.get_template(template).render(
            page=template.removesuffix(".html"),
            state=state,
            overrides=overrides,
            mode=published.mode,
            brake=published.brake,
            sentence=_sentence(state),
            flights=flight_cards(flights(published)),
            closed=self.closed(request),
            groups=group_statuses(self.context.every()),
            group=self.context.group,
            of_group=f"?group={self.context.group}" if self.context.group else "",
            **values,
        )

    def page(self, request: Request, template: str, **values: Any) -> KeptAnswer:
        return KeptAnswer(self.text(request, template, **values).encode(), _HTML)

    def error(self, request: Request, why: str, status: int) -> KeptAnswer:
        return KeptAnswer(self.text(request, "wrong.html", why=why).encode(), _HTML, status)

    def closed(self, request: Request) -> str | None:
        """Why this reader cannot order anything, or None."""
        return self.context.gate.closed(request)

    def static(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in self._static:
            return PlainTextResponse("There is no such file.\n", 404)
        # Pages name their files with a version, so a file never changes under its name.
        found = self._static[name].answer(request)
        found.headers["Cache-Control"] = "public, max-age=31536000, immutable"
        return found


def _sentence(state: State) -> str:
    """The newest cycle's sentence with a capital letter, unless it begins with a name."""
    hosts, domains = (state.snapshot.hosts, state.snapshot.domains) if state.snapshot else ((), ())
    names = (*(host.name for host in hosts), *(domain.name for domain in domains))
    return wording.headline(state.sentence, names)
