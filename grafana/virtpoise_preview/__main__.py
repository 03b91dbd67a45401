"""`python -m virtpoise_preview`: the dashboards as PNG files."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from virtpoise_preview.document import draw_list, marks, read
from virtpoise_preview.draw import draw
from virtpoise_preview.errors import PreviewError
from virtpoise_preview.prometheus import Prometheus, Source, Span
from virtpoise_preview.variables import resolve

DASHBOARDS = Path(__file__).parents[1] / "dashboards"
POINTS = 400


def preview(
    prometheus: Prometheus,
    dashboard_file: Path,
    picture: Path,
    *,
    start: float,
    end: float,
    scrape_seconds: float,
    chosen: dict[str, str],
    row: str | None = None,
) -> None:
    """Draw one dashboard, or only its row of that title, over this time (Unix seconds) into a PNG file."""
    dashboard = read(dashboard_file)
    span = Span(start, end, max(scrape_seconds, (end - start) / POINTS))
    source = Source(prometheus, scrape_seconds, span)
    values = resolve(dashboard, source, chosen)
    panels = draw_list(dashboard, values, source)
    if row is not None:
        rows = [panel for panel in panels if panel.source["type"] == "row"]
        first = next((panel for panel in rows if panel.source["title"] == row), None)
        if first is None:
            titles = ", ".join(repr(panel.source["title"]) for panel in rows)
            raise PreviewError(f"{dashboard_file}: expected a row among {titles}, got {row!r}")
        after = min((panel.place[1] for panel in rows if panel.place[1] > first.place[1]), default=sys.maxsize)
        panels = [panel for panel in panels if first.place[1] < panel.place[1] < after]
    draw(dashboard["title"], panels, marks(dashboard, values, source), span, picture)


def _choice(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError("expected NAME=VALUE")
    return name, value


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="virtpoise-preview", description="Draw the dashboards without Grafana, from the same JSON and Prometheus."
    )
    parser.add_argument("dashboards", nargs="*", type=Path, help="dashboard files; all of the project's by default")
    parser.add_argument("--prometheus", default="http://127.0.0.1:9090", metavar="URL")
    parser.add_argument("--end", type=float, default=None, metavar="UNIX", help="end of the time shown; now by default")
    parser.add_argument("--seconds", type=float, default=3600, help="how long the time shown is")
    parser.add_argument("--scrape-seconds", type=float, default=10, help="the scrape interval of this Prometheus")
    parser.add_argument("--var", type=_choice, action="append", default=[], metavar="NAME=VALUE", help="a variable")
    parser.add_argument("--row", help="draw only the row of this title")
    parser.add_argument("--out", type=Path, default=Path(), metavar="FOLDER")
    options = parser.parse_args()
    end = time.time() if options.end is None else options.end
    files = options.dashboards or sorted(DASHBOARDS.glob("*.json"))
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        for file in files:
            picture = options.out / f"{file.stem}.png"
            preview(
                Prometheus(options.prometheus),
                file,
                picture,
                start=end - options.seconds,
                end=end,
                scrape_seconds=options.scrape_seconds,
                chosen=dict(options.var),
                row=options.row,
            )
            sys.stdout.write(f"{picture}\n")
    except PreviewError as error:
        sys.stderr.write(f"virtpoise-preview: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
