"""What ends the exporter with a line and exit status 2, and what leaves a scrape without some figures."""

from __future__ import annotations

from collections.abc import Sequence

from virtpoise_exporter.exposition import Family


class UsageError(Exception):
    """Something the user gave is wrong: the message names it and says what was expected."""


class Incomplete(Exception):
    """Some files or items of a collector could not be read. ``families`` has the figures of the others.

    The message names what is missing and why.
    """

    def __init__(self, families: Sequence[Family], missing: Sequence[str]) -> None:
        super().__init__("; ".join(missing))
        self.families = families
