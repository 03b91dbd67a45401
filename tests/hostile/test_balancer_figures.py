"""One host's absurd figures make that host unknown, and no other."""

from __future__ import annotations

import pytest

from virtpoise_balancer.model import UnknownKind
from virtpoise_balancer.monitor import doubt

pytestmark = pytest.mark.hostile


def lists(active: int) -> doubt.Lists:
    return doubt.Lists(up=1.0, counted=(float(active), 0.0), listed=(active, 0))


def test_a_host_that_lists_more_domains_than_a_host_can_have_is_unknown() -> None:
    assert doubt.of_lists(lists(doubt.MOST_DOMAINS), frozenset()) is None
    found = doubt.of_lists(lists(doubt.MOST_DOMAINS + 1), frozenset())
    assert found is not None
    assert (found.kind, found.text) == (UnknownKind.FIGURES, "its number of domains cannot be right: 10001")
