"""Patterns in the metadata of domains, which whoever may edit a domain writes: bounded, and matched in linear time."""

from __future__ import annotations

import random
import time
from fnmatch import fnmatchcase

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from builders import domain, group, host, where
from virtpoise_balancer.model import Domain, Placement, Policy, Reason
from virtpoise_balancer.plan import plan
from virtpoise_balancer.rules.glob import glob

pytestmark = [pytest.mark.hostile, pytest.mark.alone]

HOSTS = tuple(host(f"kvm{n:03}.example.org", *([0.95 if n == 0 else 0.3] * 3)) for n in range(100))
CHANCE = random.Random(13)


def of_letters(count: int) -> str:
    """A pattern of ``count`` characters, every second a wildcard."""
    return "".join("*" + CHANCE.choice("aekmrv01") for _ in range(count // 2))


def all_domains(*patterns: str) -> list[Domain]:
    """Ten a host; the first 200 have patterns, each its own."""
    return [
        domain(
            f"d{n:04}",
            HOSTS[n % 100].name,
            0.5,
            placement=Placement(only_on=tuple(f"{one}{n}*" for one in patterns)) if n < 200 else None,
        )
        for n in range(1000)
    ]


@pytest.mark.parametrize(
    "patterns",
    [
        [of_letters(120) for _ in range(16)],
        ["*?*a", "*?*b"],
        ["*a", "*b", "*c", "*d"],
        ["rack=*a*b*c", "rack=*[!a]*"],
        ["x" * 100_000],
        [f"h{n}" for n in range(5000)],
    ],
)
def test_patterns_of_200_domains_cost_a_plan_little(patterns: list[str]) -> None:
    """Before, each was compiled: the first of these cost a plan 3.3 s."""
    snapshot = group(*HOSTS, *all_domains(*patterns))
    began = time.process_time()
    made = plan(snapshot, Policy())
    assert time.process_time() - began < 1.5
    assert made.moves


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (Placement(never_on=("*a" * 9,)), "metadata (has more than 8 wildcards)"),
        (Placement(prefer=("h" * 129,)), "metadata (names a host in more than 128 characters)"),
        (
            Placement(never_on=tuple(f"x{n}" for n in range(9)), prefer=tuple(f"y{n}" for n in range(8))),
            "metadata (names more than 16 hosts or patterns)",
        ),
    ],
)
def test_a_domain_that_asks_for_more_than_counts_stays_and_says_why(asked: Placement, why: str) -> None:
    hot, calm = host("h1", 0.95, 0.95, 0.95), host("h2", 0.1, 0.1, 0.1)
    greedy, other = domain("greedy", "h1", 3.0, placement=asked), domain("other", "h1", 3.0)
    made = plan(group(hot, calm, greedy, other), Policy())
    assert where(made) == {"other": "h2"}
    refusal = next(one for one in made.refusals if one.domain == "greedy")
    assert (refusal.reason, refusal.detail) == (Reason.RULE_CONFLICT, {"conflict": f"no host is left by {why}"})
    assert where(plan(group(hot, calm, greedy), Policy(metadata="ignore"))) == {"greedy": "h2"}


pieces = st.text("ab-!]\\[*?^\n", max_size=9)


@example("[]-a]*", "]")
@example("[!]a]", "b")
@given(pieces, pieces)
def test_a_pattern_fits_what_the_shells_patterns_fit(pattern: str, text: str) -> None:
    assert glob(pattern)(text) is fnmatchcase(text, pattern)


@pytest.mark.parametrize("pattern", ["*" + "?a" * 50 + "b*", "*a" * 60 + "b", "*" + "[!b]" * 60 + "b"])
@pytest.mark.timeout(30, func_only=True)  # not what is taken down after it
def test_a_text_of_a_million_characters_is_matched_in_linear_time(pattern: str) -> None:
    """One that tries each place again takes minutes."""
    assert not glob(pattern)("a" * 1_000_000)
    assert glob(pattern)("a" * 1_000_000 + "b")
