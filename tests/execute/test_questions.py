"""Answers of several hosts about one domain, which never come at one moment."""

from __future__ import annotations

from typing import cast

import pytest

from virtpoise_balancer.execute.facts import Presence
from virtpoise_balancer.execute.hosts import Hosts
from virtpoise_balancer.execute.questions import confirmed

RUNNING, ABSENT = Presence.RUNNING, Presence.ABSENT


class Later:
    """Hosts with the answers that they give next, the last one again and again."""

    def __init__(self, **later: list[Presence]) -> None:
        self.later, self.asked = later, list[str]()

    def presence(self, host: str, _uuid: str) -> Presence:
        self.asked.append(host)
        answers = self.later[host]
        return answers.pop(0) if len(answers) > 1 else answers[0]


@pytest.mark.parametrize(
    ("first", "h1", "h2", "asked", "found"),
    [
        # it went from h1 to h2 between the answers
        ((RUNNING, RUNNING), [ABSENT], [RUNNING], ["h1"], (ABSENT, RUNNING)),
        # the answer of h2 was late, and it had come back
        ((RUNNING, RUNNING), [RUNNING], [ABSENT], ["h1", "h2"], (RUNNING, ABSENT)),
        # it came back to h1, and went again
        ((RUNNING, RUNNING), [RUNNING, ABSENT], [RUNNING], ["h1", "h2", "h1"], (ABSENT, RUNNING)),
        ((RUNNING, RUNNING), [RUNNING], [RUNNING], ["h1", "h2", "h1", "h2"], (RUNNING, RUNNING)),
        ((RUNNING, ABSENT), [ABSENT], [RUNNING], [], (RUNNING, ABSENT)),
    ],
)
def test_what_seems_to_run_twice_is_asked_for_again_on_both(
    first: tuple[Presence, Presence],
    h1: list[Presence],
    h2: list[Presence],
    asked: list[str],
    found: tuple[Presence, Presence],
) -> None:
    hosts = Later(h1=h1, h2=h2)
    last = confirmed(cast(Hosts, hosts), {"h1": first[0], "h2": first[1]}, "u")
    assert hosts.asked == asked
    assert (last["h1"], last["h2"]) == found
