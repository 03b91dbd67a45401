"""The section state: where the balancer keeps what it remembers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated
from urllib.parse import parse_qs, urlsplit

from pydantic import AfterValidator, Field

from virtpoise_balancer.config.section import Section, unshown

# Parameters of libpq that hold no secret.
_POSTGRESQL_OPTIONS = frozenset({"host", "port", "passfile", "service", "sslcert", "sslkey", "sslmode", "sslrootcert"})


def _database_url(url: str) -> str:
    if url.startswith("postgresql"):
        return _postgresql_url(url)
    # A file, and nothing else: the lock of the balancer that acts lies beside it.
    if not re.fullmatch(r"sqlite:////[^?]*[^?/]", url):
        raise ValueError(
            "a file of SQLite by its whole path, like sqlite:////var/lib/virtpoise/virtpoise.db, "
            "or a database like postgresql+psycopg://virtpoise@db.example.org/virtpoise"
        )
    return url


def _postgresql_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        options = parse_qs(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
        with_password = parts.password is not None or not options.keys() <= _POSTGRESQL_OPTIONS
        well_formed = parts.scheme == "postgresql+psycopg" and bool(parts.path.strip("/")) and not parts.fragment
        _ = parts.port
    except ValueError:
        with_password, well_formed = "@" in url, False
    if with_password:  # the address is logged and shown, so it holds no secret
        raise unshown(
            "an address without a password (state.password_file, or libpq's passfile), whose query has only "
            f"{', '.join(sorted(_POSTGRESQL_OPTIONS))}, since it is logged and shown"
        )
    if not well_formed or not url.isprintable():
        raise ValueError("a database like postgresql+psycopg://virtpoise@db.example.org/virtpoise")
    return url


class StateStore(Section):
    """What the balancer remembers, and for how long."""

    url: Annotated[str, AfterValidator(_database_url)] = "sqlite:////var/lib/virtpoise/virtpoise.db"
    password_file: Path | None = None
    keep_days: Annotated[int, Field(ge=1)] = 90
    keep_bytes: Annotated[int, Field(ge=1)] = 256 * 2**20

    @property
    def file(self) -> Path | None:
        """The file of an SQLite store; None for a database on a server."""
        _, is_file, path = self.url.partition("sqlite:///")
        return Path(path) if is_file else None
