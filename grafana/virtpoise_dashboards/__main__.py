"""Write the dashboards' JSON, one file each, named as its uid."""

from __future__ import annotations

import json
from pathlib import Path

from virtpoise_dashboards.balancer import BALANCER_DASHBOARD
from virtpoise_dashboards.domain import DOMAIN_DASHBOARD
from virtpoise_dashboards.exporter_health import EXPORTER_HEALTH
from virtpoise_dashboards.fleet import FLEET
from virtpoise_dashboards.host import HOST_DASHBOARD
from virtpoise_dashboards.predictions import PREDICTIONS

DASHBOARDS = (FLEET, PREDICTIONS, BALANCER_DASHBOARD, HOST_DASHBOARD, DOMAIN_DASHBOARD, EXPORTER_HEALTH)
FOLDER = Path(__file__).parents[1] / "dashboards"


def files() -> dict[Path, str]:
    """The path and the text of each dashboard."""
    return {
        FOLDER / f"{dashboard.uid}.json": json.dumps(dashboard.to_json(), indent=2, ensure_ascii=False) + "\n"
        for dashboard in DASHBOARDS
    }


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for path, text in files().items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
