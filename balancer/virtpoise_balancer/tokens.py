"""The tokens of those who may give orders: a file with mode 0600 and a line ``NAME:TOKEN`` for each."""

from __future__ import annotations

import hmac
import re
import stat
from collections.abc import Mapping
from pathlib import Path

from virtpoise_balancer.errors import BadInput

LEAST_LENGTH = 20
# The user who calls a command (percent-encoded), if that is not the owner of the token that it uses.
USER_HEADER = "Virtpoise-User"
_LINE = re.compile(rf"([A-Za-z0-9._@-]{{1,64}}):([\x21-\x7e]{{{LEAST_LENGTH},}})")


def read_tokens(path: Path) -> dict[str, str]:
    """The tokens by their owners' names. BadInput names the fault of the file, but never its content."""
    try:
        if path.stat().st_mode & stat.S_IRWXO:
            raise BadInput(f"web.token_file: {path}: others may read it; chmod o-rwx")
        lines = path.read_text(encoding="ascii").splitlines()
    except OSError as error:
        raise BadInput(f"web.token_file: {path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise BadInput(f"web.token_file: {path}: expected ASCII text") from None
    tokens: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None or match[1] in tokens:
            raise BadInput(
                f"web.token_file: {path}: line {number}: expected NAME:TOKEN with a token of at least {LEAST_LENGTH} "
                "characters, and each name once"
            )
        tokens[match[1]] = match[2]
    if not tokens:
        raise BadInput(f"web.token_file: {path}: expected a line NAME:TOKEN")
    return tokens


def owner(tokens: Mapping[str, str], token: str) -> str | None:
    """The owner of the token, or None. It takes as long for a wrong token as for a right one."""
    found = None
    for name, known in tokens.items():
        if hmac.compare_digest(known.encode(), token.encode("utf-8", "replace")):
            found = name
    return found


def own_token(path: Path | None, user: str, *, root: bool) -> str:
    """The token that a command of ``user`` uses on the balancer's machine: the user's own.

    Root can read all of them, and uses the file's first if the user has none; the journal then names both.
    """
    if path is None:
        raise BadInput("web.token_file: not set, so no orders are possible through the running balancer")
    tokens = read_tokens(path)
    if user not in tokens and not root:
        raise BadInput(f"web.token_file: {path}: no token for {user}")
    return tokens.get(user) or next(iter(tokens.values()))
