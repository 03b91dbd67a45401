"""Basic authentication against bcrypt hashes (RFC 7617)."""

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Mapping

# the hash of an unknown password: checking an unknown user takes as long as a wrong password
_NOBODY = b"$2b$10$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW"


class Gate:
    """Verifies users. It remembers verified credentials by a keyed digest, because bcrypt is slow by design."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self._welcome: set[bytes] = set()

    def remembers(self, users: Mapping[str, str], authorization: str) -> bool:
        """Whether these credentials have been verified before, against the same hash."""
        credentials = parse_basic(authorization)
        return credentials is not None and self._digest(users, *credentials) in self._welcome

    def verify(self, users: Mapping[str, str], authorization: str) -> bool:
        """Whether the header carries a user of ``users`` and the password to its hash. Takes up to a second."""
        import bcrypt

        credentials = parse_basic(authorization)
        if credentials is None:
            return False
        user, password = credentials
        expected = users.get(user)
        try:
            matches = bcrypt.checkpw(password[:72], expected.encode() if expected else _NOBODY)
        except ValueError:
            matches = False
        if not matches or expected is None:
            return False
        if len(self._welcome) > len(users):  # of hashes that have been replaced since
            self._welcome.clear()
        self._welcome.add(self._digest(users, user, password))
        return True

    def _digest(self, users: Mapping[str, str], user: str, password: bytes) -> bytes:
        parts = (user.encode("utf-8", "replace"), users.get(user, "").encode(), password)
        message = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
        return hmac.new(self._key, message, hashlib.sha256).digest()


def parse_basic(authorization: str) -> tuple[str, bytes] | None:
    """User and password of an Authorization header; None if it carries none."""
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, colon, password = base64.b64decode(encoded.strip(), validate=True).partition(b":")
    except (binascii.Error, ValueError):
        return None
    return (user.decode("utf-8", "replace"), password) if colon else None
