"""Writes all generated pages: scripts/generate-docs."""

from __future__ import annotations

from pathlib import Path

from virtpoise_docs import PAGES

DOCS = Path(__file__).parents[1]

for name, write in PAGES.items():
    (DOCS / f"{name}.md").write_text(write(), encoding="utf-8")
