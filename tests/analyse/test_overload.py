"""N in a row: what counts, and what does not."""

from hypothesis import given
from hypothesis import strategies as st

from builders import group, host, thesis_policy
from virtpoise_balancer.analyse.overload import accompanied_since, consecutive
from virtpoise_balancer.analyse.triggers import overloads
from virtpoise_balancer.model import HostState, Trigger

TRIGGER = Trigger(threshold=0.6, consecutive=2)


def test_counts_back_to_the_first_reading_below() -> None:
    seen = host("h1", 0.9, 0.5, 0.6, 0.7)
    assert consecutive(seen, TRIGGER, group(seen)) == 2


def test_the_threshold_itself_counts() -> None:
    seen = host("h1", 0.6, 0.6)
    assert [o.host for o in overloads(group(seen), thesis_policy())] == ["h1"]


def test_one_reading_below_starts_again() -> None:
    seen = host("h1", 0.9, 0.9, 0.59)
    assert overloads(group(seen), thesis_policy()) == ()


def test_a_reading_whose_step_began_before_counted_from_does_not_count() -> None:
    """Time 1000, step 10: the readings cover 970-980, 980-990 and 990-1000."""
    for counted_from, expected in ((None, 3), (970.0, 3), (971.0, 2), (985.0, 1), (1000.0, 0)):
        seen = host("h1", 0.9, 0.9, 0.9, counted_from=counted_from)
        assert consecutive(seen, TRIGGER, group(seen)) == expected


def test_unknown_and_draining_hosts_are_not_judged() -> None:
    for state in (HostState.UNKNOWN, HostState.DRAINING, HostState.STANDBY):
        assert overloads(group(host("h1", 0.9, 0.9, state=state)), thesis_policy()) == ()


def test_the_most_loaded_comes_first_and_ties_go_by_name() -> None:
    seen = group(host("b", 0.9, 0.9), host("a", 0.9, 0.9), host("c", 0.95, 0.95))
    assert [o.host for o in overloads(seen, thesis_policy())] == ["c", "a", "b"]


def test_company_begins_with_the_oldest_reading_of_another_active_host() -> None:
    seen = group(host("h1", 0.9, 0.9, 0.9, 0.9), host("h2", 0.1, 0.1), host("h3", 0.1))
    assert accompanied_since(seen) == {"h1": 980.0, "h2": 960.0, "h3": 960.0}


def test_alone_there_is_no_company() -> None:
    seen = group(host("h1", 0.9), host("h2", state=HostState.UNKNOWN), host("h3", 0.1, state=HostState.DRAINING))
    assert accompanied_since(seen) == {"h1": None, "h2": 990.0, "h3": 990.0}


@given(st.lists(st.floats(0, 1), max_size=10), st.floats(0.01, 0.9), st.floats(0, 0.1))
def test_a_higher_threshold_never_counts_more(readings: list[float], threshold: float, more: float) -> None:
    seen = host("h1", *readings)
    low, high = (consecutive(seen, Trigger(threshold=t), group(seen)) for t in (threshold, threshold + more))
    assert high <= low <= len(readings)
