"""The tokens of those who may read or give orders: a line ``NAME:ROLE:sha256:HASH`` for each, in a file that others
cannot read.

A line ``NAME:TOKEN`` holds the token itself, and its owner may do everything.
"""

from __future__ import annotations

import hmac
import pwd
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Literal, get_args

from virtpoise_balancer.errors import BadInput
from virtpoise_balancer.secret_files import read_secret

LEAST_LENGTH = 20
# The user who calls a command (percent-encoded), if that is not the owner of the token that it uses.
USER_HEADER = "Virtpoise-User"

# Each may do what the ones before it may: read; order moves, drains and pauses; set the mode.
TokenRole = Literal["read", "order", "mode"]
ROLES: tuple[TokenRole, ...] = get_args(TokenRole)

_NAME = "[A-Za-z0-9._@-]{1,64}"
_HASHED = re.compile(rf"({_NAME}):({'|'.join(ROLES)}):sha256:([0-9a-f]{{64}})")
# A misspelt line of a hash is no token: who knows the hash could use the rest of that line as one.
_PLAIN = re.compile(rf"({_NAME}):(?!(?i:.*sha256:))([\x21-\x7e]{{{LEAST_LENGTH},}})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A token of the tokens' file.

    ``digest``: SHA-256 of the token, hexadecimal; ``plain``: the token, if the file holds it.
    """

    owner: str
    role: TokenRole
    digest: str
    plain: str | None = None


def user_name(uid: int) -> str:
    """The name of the user with this id, or the id where there is none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def may(role: TokenRole, needed: TokenRole) -> bool:
    """Whether a token with ``role`` may give orders that need ``needed``."""
    return ROLES.index(role) >= ROLES.index(needed)


def read_tokens(path: Path) -> dict[str, Token]:
    """The tokens by their owners' names. BadInput names the fault of the file, but never its content."""
    tokens: dict[str, Token] = {}
    for number, line in enumerate(read_secret(path, "web.token_file").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        token = _token(line.strip())
        if token is None or token.owner in tokens:
            raise BadInput(
                f"web.token_file: {path}: line {number}: expected a line of `virtpoise token NAME`, or NAME:TOKEN with a "
                f"token of at least {LEAST_LENGTH} characters, and each name once"
            )
        tokens[token.owner] = token
    if not tokens:
        raise BadInput(f"web.token_file: {path}: expected a line NAME:ROLE:sha256:HASH")
    return tokens


def _token(line: str) -> Token | None:
    if hashed := _HASHED.fullmatch(line):
        (role,) = (role for role in ROLES if role == hashed[2])
        return Token(owner=hashed[1], role=role, digest=hashed[3])
    if plain := _PLAIN.fullmatch(line):
        return Token(owner=plain[1], role="mode", digest=_digest(plain[2]), plain=plain[2])
    return None


def new_token(owner: str, role: TokenRole) -> tuple[str, str]:
    """A new token, and its line for the file. BadInput when this can be no owner's name."""
    if not re.fullmatch(_NAME, owner):
        raise BadInput("NAME: expected at most 64 letters, digits and ._@-")
    token = secrets.token_urlsafe(32)
    return token, f"{owner}:{role}:sha256:{_digest(token)}"


def known(tokens: Iterable[Token], given: str) -> Token | None:
    """The token that was given, or None. It takes as long for a wrong one as for a right one."""
    digest, found = _digest(given), None
    for token in tokens:
        if hmac.compare_digest(token.digest, digest):
            found = token
    return found


def _digest(token: str) -> str:
    # A token is random and long, so a fast hash is enough.
    return sha256(token.encode("utf-8", "replace")).hexdigest()


def own_token(path: Path | None, user: str, *, root: bool) -> str:
    """The token that a command of ``user`` uses on the balancer's machine: the user's own, if the file holds it in
    plain text.

    Root can read all of them, and uses the file's first if the user has none; the journal then names both.
    """
    if path is None:
        raise BadInput("web.token_file: not set, so no orders are possible through the running balancer")
    tokens: Mapping[str, str] = {name: one.plain for name, one in read_tokens(path).items() if one.plain}
    if user not in tokens and not (root and tokens):
        raise BadInput(
            f"web.token_file: {path}: no token in plain text for {user}; see web.socket for commands without a token"
        )
    return tokens.get(user) or next(iter(tokens.values()))
