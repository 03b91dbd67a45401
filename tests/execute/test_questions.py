"""Answers of several hosts about one domain, which never come at one moment."""

from __future__ import annotations

from typing import cast

import pytest

from virtpoise_balancer.execute.facts import Presence
from virtpoise_balancer.execute.hosts import Hosts
from virtpoise_balancer.execute.questions import confirmed

RUNNING, ABSENT = Presence.RUNNING, Presence.ABSENT


class Later:
    """Hosts with the answers that they give next."""

    def __init__(self, **later: Presence) -> None:
        self.later, self.asked = later, list[str]()

    def presence(self, host: str, _uuid: str) -> Presence:
        self.asked.append(host)
        return self.later[host]


@pytest.mark.parametrize(
    ("first", "later", "asked"),
    [
        ((RUNNING, RUNNING), (ABSENT, RUNNING), ["h1"]),  # it went from h1 to h2 between the answers
        ((RUNNING, RUNNING), (RUNNING, ABSENT), ["h1", "h2"]),  # the answer of h2 was late, and it had come back
        ((RUNNING, RUNNING), (RUNNING, RUNNING), ["h1", "h2"]),
        ((RUNNING, ABSENT), (ABSENT, RUNNING), []),
    ],
)
def test_what_seems_to_run_twice_is_asked_for_again_on_both(
    first: tuple[Presence, Presence], later: tuple[Presence, Presence], asked: list[str]
) -> None:
    hosts = Later(h1=later[0], h2=later[1])
    found = confirmed(cast(Hosts, hosts), {"h1": first[0], "h2": first[1]}, "u")
    assert hosts.asked == asked
    assert found == {"h1": later[0] if asked else first[0], "h2": later[1] if "h2" in asked else first[1]}
