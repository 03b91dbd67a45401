"""More than 2,545 orders with a wrong token, from another site or over a closed way: not one is followed."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from itertools import product
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from virtpoise_balancer.config import Web
from virtpoise_balancer.tokens import new_token
from virtpoise_balancer.web.app import make_app
from web.serving import TOKEN, Balancer, small, token_file

pytestmark = pytest.mark.hostile

HERE, PORT = "127.0.0.1", 9808
ORDERS: tuple[tuple[str, dict[str, object]], ...] = (
    ("/api/v1/pause", {}),
    ("/api/v1/resume", {}),
    ("/api/v1/mode", {"mode": "recommend"}),
    ("/api/v1/mode", {"mode": "automatic"}),
    ("/api/v1/hosts/h1/drain", {}),
    ("/api/v1/hosts/h2/undrain", {}),
    ("/api/v1/plan/apply", {"moves": "all"}),
    ("/api/v1/plan/apply", {"moves": [{"uuid": "11111111-1111-4111-8111-111111111111", "destination": "h2"}]}),
)
RIGHT = {"Authorization": f"Bearer {TOKEN}"}
Headers = dict[str, str]


def wrong_tokens() -> Iterator[str]:
    """Values of Authorization that are not the token, most of them nearly."""
    for at, letter in enumerate(TOKEN):
        yield f"Bearer {TOKEN[:at]}{TOKEN[at + 1 :]}"
        yield f"Bearer {TOKEN[:at]}{chr(ord(letter) ^ 1)}{TOKEN[at + 1 :]}"
        yield f"Bearer {TOKEN[:at]}{letter.swapcase() if letter.isalpha() else '_'}{TOKEN[at + 1 :]}"
        yield f"Bearer {TOKEN[:at]} {TOKEN[at:]}" if at else f"Bearer{TOKEN}"
        yield f"Bearer {TOKEN[: at + 1]}" if at + 1 < len(TOKEN) else f"Bearer {TOKEN[::-1]}"
    yield from (
        f"Bearer {TOKEN}{end}" for end in ("x", "\0", "\xa0", ",", ";", "=", "%00", f" {TOKEN}", f",{TOKEN}", "\xff")
    )
    yield from (
        f"{scheme} {TOKEN}"
        for scheme in ("Basic", "Token", "bearer:", "Digest", "Negotiate", "", "Bearer,", "X Bearer")
    )
    yield from (
        f"Bearer {one}"
        for one in (
            "",
            " ",
            "*",
            "null",
            "None",
            "true",
            "0",
            "alice",
            f"alice:{TOKEN}",
            "' OR 1=1 --",
            "sha256:",
            "\t",
        )
    )
    for digest in (hashlib.sha256(TOKEN.encode()).hexdigest(), hashlib.md5(TOKEN.encode()).hexdigest()):
        yield from (f"Bearer {digest}", f"Bearer sha256:{digest}", f"Bearer {digest.upper()}")
    for user in ("alice", "root", ""):
        yield f"Basic {b64encode(f'{user}:{TOKEN}'.encode()).decode()}"
    yield from (f"Bearer {new_token('mallory', 'mode')[0]}" for _ in range(40))


def other_sites() -> Iterator[Headers]:
    """What browsers add to a request of another site's page."""
    for host in ("evil.example", "localhost", "127.0.0.2", "127.0.0.1:80", "127.0.0.1:98080", "127.0.0.1.evil.example",
                 "127.0.0.1:9808.evil.example", "evil.example:9808", "[::1]:9808", "0.0.0.0:9808", "2130706433:9808",
                 "127.0.0.1:9808@evil.example", "evil.example#127.0.0.1:9808",
                 "x127.0.0.1:9808", "127.1:9808", "127.0.0.1:09808"):  # fmt: skip
        for scheme in ("http", "https", "file", "chrome-extension"):
            yield {"Origin": f"{scheme}://{host}"}
    yield from (
        {"Origin": one}
        for one in ("null", "", "file://", "http://", "http://[", "about:blank", "127.0.0.1:9808", "//", "data:", "*")
    )
    for site in ("cross-site", "same-site", "", "None", "same-origin, cross-site", "SAME-ORIGIN", "x"):
        yield {"Sec-Fetch-Site": site}
        yield {"Sec-Fetch-Site": site, "Origin": f"http://{HERE}:{PORT}"}


def forms() -> Iterator[Headers]:
    """What a page of another site can send without being asked for leave first."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "", "application/jsonp",
                 "text/plain; application/json", "application/json2", "application/ json", "application"):  # fmt: skip
        yield {"Content-Type": kind}


def rebound() -> Iterator[Headers]:
    """Another name for this machine's address."""
    for host in (
        "evil.example",
        "evil.example:9808",
        "[",
        "localhost.evil.example",
        "127.0.0.1.nip.example",
        "",
        "127.0.0.2:9808",
    ):
        yield {"Host": host}


def attacks() -> Iterator[tuple[str, Headers, str]]:
    """What is wrong with an order, its headers, and over what it comes."""
    for value in wrong_tokens():
        yield "wrong token", {"Authorization": value}, "https"
    for more in other_sites():
        yield "other site", RIGHT | more, "https"
    for more in forms():
        yield "form", RIGHT | more, "https"
    for more in rebound():
        yield "other name", RIGHT | more, "https"
    yield "no token", {}, "https"
    yield "not over TLS", RIGHT, "http"


def header_bytes(headers: Headers) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]


def test_not_one_is_followed(tmp_path: Path) -> None:
    balancer = Balancer(tmp_path, small(), Web(listen_address=f"{HERE}:{PORT}", token_file=token_file(tmp_path)))
    balancer.cycle()
    app = make_app(balancer.context)
    statuses: Counter[tuple[str, int]] = Counter()
    with closing(balancer.store):
        before = balancer.store.standing_orders(), balancer.store.overrides()
        for number, ((path, body), (what, headers, scheme)) in enumerate(product(ORDERS, attacks())):
            # Another address for each hundred, so that it is not their pace for which they are refused.
            client = TestClient(app, f"{scheme}://{HERE}:{PORT}", client=(f"192.0.2.{number // 100}", 50000))
            answer = client.post(path, json=body, headers=header_bytes({"Content-Type": "application/json"} | headers))
            statuses[what, answer.status_code] += 1
        print(dict(statuses))
        assert statuses.total() >= 2545
        assert {status for _, status in statuses} <= {400, 401, 403, 415, 421}
        assert (balancer.store.standing_orders(), balancer.store.overrides()) == before
        assert balancer.acting.taken == []
        assert {action.accepted for action in balancer.store.actions(1000)} == {False}
        honest = TestClient(app, f"http://{HERE}:{PORT}", client=(HERE, 50000))
        assert [
            honest.post(path, json={}, headers=RIGHT).status_code for path in ("/api/v1/pause", "/api/v1/resume")
        ] == [200, 200]
