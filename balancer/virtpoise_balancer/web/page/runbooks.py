"""The pages /runbooks and /runbooks/NAME, to which the alerts link."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files

from markdown_it import MarkdownIt
from markupsafe import Markup
from starlette.requests import Request

from virtpoise_balancer.web.kept import KeptAnswer
from virtpoise_balancer.web.page.writer import Writer


class RunbookPages:
    """The runbooks of the folder alerts/runbooks, which the package carries."""

    def __init__(self, writer: Writer, runbooks: Mapping[str, str]) -> None:
        """The pages of these texts, by the names of their files."""
        self._writer, self._runbooks = writer, runbooks

    @classmethod
    def read(cls, writer: Writer) -> RunbookPages:
        """The pages of the files in the package."""
        folder = files("virtpoise_balancer.web") / "runbooks"
        return cls(writer, {one.name: one.read_text(encoding="utf-8") for one in folder.iterdir()})

    def index(self, request: Request) -> KeptAnswer:
        return self._writer.page(request, "runbooks.html", names=sorted(self._runbooks))

    def one(self, request: Request) -> KeptAnswer:
        name = request.path_params["name"]
        if name not in self._runbooks:
            return self._writer.error(request, f"{name}: there is no such runbook", 404)
        text = Markup(MarkdownIt("commonmark", {"html": False}).render(self._runbooks[name]))  # noqa: S704 - our own file
        return self._writer.page(request, "runbook.html", name=name, text=text)
