"""The limits that docs/security.md and docs/exporter.md give in numbers are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hostile.units import memory_max_mib, tasks_max
from virtpoise_balancer.analyse import others
from virtpoise_balancer.execute import copies, inventory, reach
from virtpoise_balancer.execute.worker import needs
from virtpoise_balancer.knowledge import others as kept_others
from virtpoise_balancer.monitor import client, domain_figures, doubt, matchers, replies, targets
from virtpoise_balancer.plan.default import rule_set
from virtpoise_balancer.web import api, connections, fair, live, pace, server, strangers
from virtpoise_exporter.virt import xml
from virtpoise_exporter.web import server as listener
from virtpoise_exporter.web import shared, turns

ROOT = Path(__file__).parents[2]
MIB, KIB = 1 << 20, 1 << 10
# What one address is; no limit.
NO_LIMITS = ("one /64", "IPv6", "SHA-256", "one address", "HTTP/1.1", "TLS 1.2")

BALANCER = {
    "A reply of Prometheus": [
        f"{client.MOST_REPLY_BYTES // MIB} MiB",
        f"{replies.MOST_SERIES:,} series",
        f"{replies.MOST_SAMPLES // 1_000_000} million samples",
        f"{replies.MOST_LABEL:,} characters",
        f"names of domains of {domain_figures._LONGEST_NAME} characters",
        f"{doubt.MOST_DOMAINS:,} domains",
    ],
    "Domains of one host that others seem to run as well": [f"{doubt.MOST_CLAIMED},"],
    "Hosts that one host contradicts, as they and it confirm": [f"{copies._MOST_CONTRADICTED}"],
    "Migrations, starts and stops by others": [
        f"{others.MOST_OF_A_HOST} of one host",
        f"in {kept_others._REMEMBERED_SECONDS / 3600:.0f} hours",
        f"{kept_others._MOST_KEPT:,} in the store",
    ],
    "Questions to libvirt side by side": [
        f"{copies._LANES} about domains",
        f"{inventory._LANES} for what hosts have",
        f"{inventory._LANES_NOW} before moves",
        f"{reach._LANES} for whether they answer",
        f"`TasksMax={tasks_max('balancer')}`",
    ],
    "Selector of a group (`matchers`)": [f"{matchers._LONGEST:,} printable characters"],
    "Hosts in a domain's metadata": [
        f"{rule_set._MOST_HOSTS},",
        f"of {rule_set._LONGEST_HOST} characters",
        f"{rule_set._MOST_WILDCARDS} wildcards",
    ],
    "A domain's description": [
        f"{needs._MOST_DESCRIPTION // MIB} MiB beside its metadata",
        f"{xml._MOST_PLACEMENT // KIB} KiB of `<placement>`",
    ],
    "Labels of a target": [f"{targets.MOST_LABELS},", f"of {targets._LONGEST_LABEL} printable ASCII characters"],
    "Connections": [
        f"{connections.MOST_CONNECTIONS};",
        f"{connections.MOST_PER_ADDRESS} from one address",
        f"{connections.MOST_SHAKING_HANDS} during the handshake of TLS",
        f"{connections.MOST_SHAKING_HANDS_PER_ADDRESS} of one address",
        f"{connections.RECEIVED_BYTES // KIB} KiB of requests",
        f"{connections.SENT_BYTES // KIB} KiB of answers",
    ],
    "Head of a request": [f"{connections.REQUEST_SECONDS:.0f} s", f"{server._MOST_HEAD_BYTES // KIB} KiB"],
    "Body of an order": [
        f"{api._BODY_SECONDS:.0f} s",
        f"{api._MOST_BODY_BYTES // MIB} MiB",
        "408",  # statuses of HTTP
        "413",
    ],
    "Requests of one address (IPv6: one /64)": [
        f"{pace.RATE_PER_SECOND:.0f} a second",
        f"bursts of {pace.BURST:.0f}",
        f"up to {pace.LONGEST_WAIT_SECONDS:.0f} s",
        "429",
    ],
    "Answers of one address at once (pages; metrics and health)": [
        f"{fair.MOST_ANSWERED_AT_ONCE} each",
        f"{fair.MOST_ASKED} wait",
        "429",
    ],
    "Reading of an answer": [f"{connections.READING_SECONDS:.0f} s", "64 KiB"],
    "Listeners for events": [f"{live._MOST_LISTENERS};", f"{live._MOST_PER_ADDRESS} from one address", "503"],
    "Refused orders of strangers": [f"{strangers._MOST_ADDRESSES} addresses"],
    "Memory of the balancer": [f"{memory_max_mib('balancer') // 1024} GiB"],
}
EXPORTER = {
    "connections": [
        f"{listener.MOST_CONNECTIONS} in all",
        f"{listener.MOST_OF_AN_ADDRESS} from one address",
        "counts as eight",
    ],
    "handshake; a request's head": [f"{listener.HEAD_SECONDS:.0f} s each", f"{listener._MOST_HEAD_BYTES // KIB} KiB"],
    "an answer that is not read": [
        f"{listener.TAKE_SECONDS:.0f} s",
        f"{listener.MOST_UNREAD_BYTES // MIB} MiB",
        f"{listener._KERNEL_BUFFER_BYTES // KIB} KiB",
    ],
    "scrapes": ["four at once"],
    "passwords to verify": [f"{turns.MOST_WAITING_OF_AN_ADDRESS} of one address"],
    "memory of the exporter": [f"{memory_max_mib('exporter')} MiB"],
}


def rows(page: str, heading: str) -> dict[str, str]:
    """The rest of each row of the section's table, by its first cell."""
    section = (ROOT / "docs" / page).read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    found = re.findall(r"^\| (.+?) \| (.+) \|$", section, re.MULTILINE)[1:]
    return {first: rest for first, rest in found if not first.startswith("---")}


@pytest.mark.parametrize(
    ("page", "heading", "limits"),
    [
        ("security.md", "Limits in numbers", BALANCER),
        ("exporter.md", "Clients that mean harm", EXPORTER),
    ],
)
def test_each_number_of_the_limits_is_the_codes(page: str, heading: str, limits: dict[str, list[str]]) -> None:
    found = rows(page, heading)
    assert limits.keys() <= found.keys()
    for first, rest in found.items():
        left = rest
        for limit in limits.get(first, ()):
            assert limit in left, f"{first}: the code has {limit}"
            left = left.replace(limit, "", 1)
        for no_limit in NO_LIMITS:
            left = left.replace(no_limit, "")
        assert not re.search(r"\d", left), f"{first}: a number that no test holds to the code: {left}"


def test_numbers_in_words_are_the_codes() -> None:
    assert xml._MOST_DESCRIPTION == needs._MOST_DESCRIPTION
    assert (listener._PLACES_WITH_TLS, shared._MOST_AT_ONCE) == (8, 4)


def test_the_room_for_series_is_the_same_wherever_it_is_written() -> None:
    for page in ("install.md", "security.md"):
        text = re.sub(r"\s+", " ", (ROOT / "docs" / page).read_text(encoding="utf-8"))
        assert set(re.findall(r"([\d,]+) series", text)) == {f"{replies.MOST_SERIES:,}"}, page
