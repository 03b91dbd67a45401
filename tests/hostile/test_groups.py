"""Hostile names and selectors of groups, and hostile labels of targets."""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import domain, group, host, where
from filled_prometheus import filled_prometheus, prometheus_server
from hostile.test_mangled import HONEST, NOW, look
from virtpoise_balancer.analyse.drains import DrainOrder, with_drains
from virtpoise_balancer.config import Config, parse_config
from virtpoise_balancer.errors import BadInput
from virtpoise_balancer.formats import read_snapshot, write_snapshot
from virtpoise_balancer.model import Placement, Policy, Reserve, Rule, Snapshot
from virtpoise_balancer.monitor.matchers import EXAMPLE, read_matchers
from virtpoise_balancer.monitor.queries import QUERIES, Ranges, render
from virtpoise_balancer.monitor.replies import Series
from virtpoise_balancer.plan import plan
from virtpoise_balancer.service.wiring import make_observer

pytestmark = pytest.mark.hostile

RANGES = Ranges.of(step_seconds=10, scrape_interval_seconds=10, consecutive=3, saturation_ratio=0.9)


def of_groups(groups: object) -> Config:
    return parse_config(json.dumps({"libvirt": {"pattern": "*"}, "groups": groups}), "x.yml")


def refusal(groups: object) -> str:
    """What is said of them: one line that can be shown."""
    with pytest.raises(BadInput) as refused:
        of_groups(groups)
    (line,) = str(refused.value).splitlines()
    assert line.isprintable()
    assert len(line) < 500
    return line


# ---- names


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "a b",
        "-a",
        "../a",
        "a/b",
        "a?group=b",
        "a&group=b",
        "a\nb",
        "a\x1b[2J",
        "a\u202eb",
        "a\u2028b",
        "\u0661",
        "\uff41",
        "é",
        "a'; DROP TABLE moves; --",
        'a"}',
        "<script>hit=1</script>",
        "{{ 7 * 7 }}",
        "a" * 64,
        "a" * 1000,
    ],
)
def test_a_name_that_is_more_than_a_name_is_refused_in_one_line(name: str) -> None:
    assert refusal({name: {"matchers": EXAMPLE}}).startswith("x.yml: groups.")


@pytest.mark.parametrize("groups", [["a"], "a", {"a": None}, {"a": []}, {"a": {}}, {"a": {"matchers": {"b": "c"}}}])
def test_what_is_no_group_is_refused_in_one_line(groups: object) -> None:
    assert refusal(groups).startswith("x.yml: groups")


# ---- selectors


@pytest.mark.parametrize(
    "matchers",
    [
        "",
        " ",
        "blue",
        "{}",
        '{cluster="blue"}',
        'up{cluster="blue"}',
        'cluster="blue"} or up{cluster="red"',
        'cluster="blue"}[5m] #',
        "cluster=blue",
        'cluster="blue',
        'cluster="\\"',
        'cluster="\\\'"',
        'cluster="\\777"',
        'cluster="\\ud83e\\udd8e"',
        'cluster="\\U0000dfff"',
        "cluster=`a\nb`",
        'cluster="\u202e"',
        'cluster="\x1b"',
        'cluster="a" or cluster="b"',
        '__name__=~".+"',
        '"cluster"="a"',
        f'cluster="{"x" * 100_000}"',
        ",".join(f'l{number}="x"' for number in range(10_000)),
        "(" * 100_000,
    ],
)
def test_a_selector_that_is_none_or_huge_is_refused_in_one_line(matchers: str) -> None:
    assert refusal({"a": {"matchers": matchers}}).startswith("x.yml: groups.a.matchers: expected ")


def test_two_groups_with_one_selector_are_refused_in_one_line() -> None:
    same = {"matchers": f'cluster="{"x" * 3000}"'}
    assert refusal({"a": same, "b": same}).startswith("x.yml: groups.b.matchers: expected others than those of a")


@settings(max_examples=50)
@given(st.text(alphabet="ab$wmiundoatchersg{}~=\"'`\\,#:[]", max_size=30))
def test_nothing_in_a_matchers_value_is_replaced_or_ends_its_selector(value: str) -> None:
    matchers = read_matchers("cluster=" + json.dumps(value) + ', room=~"$window|${matchers}"')
    for query in QUERIES.values():
        bare = render(query, RANGES, "\0")
        assert render(query, RANGES, matchers) == bare.replace("\0", matchers)


VALUES = (
    "blue",
    'blue"} or up{a="',
    "$window",
    "${matchers}",
    "\\",
    "\\\\n",
    "'",
    "`",
    "#",
    "a,b",
    "}",
    "\n",
    "\u202e",
    "\x1b[2J",
    "é\U0001f98e",
    "x" * 1000,
)


def test_on_a_real_prometheus_each_group_has_the_hosts_with_its_value_alone(tmp_path: Path) -> None:
    end = float((int(time.time()) - 6 * 3600) // 10 * 10)
    lines = ["# TYPE virtpoise_host_cpus gauge"]
    for number, value in enumerate(VALUES):
        written = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        lines.append(
            f'virtpoise_host_cpus{{job="virtpoise-exporter",instance="h{number}:9807",cluster="{written}"}} 8 {end}'
        )
    groups = {f"g{number}": {"matchers": "cluster=" + json.dumps(value)} for number, value in enumerate(VALUES)}
    # What is beyond 16 bits JSON writes as two escapes, and PromQL takes as it is.
    groups["g14"] = {"matchers": 'cluster="é\U0001f98e"'}
    with filled_prometheus("\n".join([*lines, "# EOF\n"]), tmp_path) as url:
        every = parse_config(
            json.dumps({"prometheus": {"url": url}, "libvirt": {"pattern": "*"}, "groups": groups}, ensure_ascii=False),
            "x",
        )
        found = {name: make_observer(config).members(end) for name, config in every.each_group.items()}
    assert found == {f"g{number}": frozenset({f"h{number}"}) for number in range(len(VALUES))}


PIECES = (
    *"ab=~!\"'`{}#,$.*[(",
    "\\",
    "\\n",
    "\\x41",
    "\\377",
    "\\u00e9",
    "\\ud7ff",
    "\\ud800",
    "\\U0001F98E",
    "é",
    "on",
)


def test_what_is_taken_for_a_selector_is_one_to_a_real_prometheus(tmp_path: Path) -> None:
    chance = random.Random(13)
    taken: set[str] = set()
    while len(taken) < 300:
        quote = chance.choice("\"'`")
        text = "".join(chance.choice(PIECES) for _ in range(chance.randrange(6)))
        with suppress(ValueError):
            taken.add(read_matchers(f"{chance.choice(['a', 'on', 'and', 'inf', '_x'])}={quote}{text}{quote}"))
    with prometheus_server(tmp_path) as address:
        for matchers in sorted(taken):
            answer = requests.post(f"http://{address}/api/v1/query", {"query": f"x{{{matchers}}}"}, timeout=30)
            assert answer.status_code == 200, f"{matchers}: {answer.text}"


# ---- labels of targets

ODD = ("", "\0", "r1\x1b[2J", "r1\u202e", "r1\n", "\u2028", "\ud800", "é", "r1" * 100, "r" * 100_000)
RACKS = (
    Rule(name="only", kind="only_on", domains=("vm-a1",), hosts=("rack=*",)),
    Rule(name="never", kind="never_on", domains=("vm-b1",), hosts=("rack=r1",)),
    Rule(name="apart", kind="apart", domains=("vm-*",), over="rack"),
)


def seen_with(labels: Mapping[str, str]) -> Snapshot:
    """Three hosts; the second has labels beside the room of all, and the third is in rack r2."""
    more: dict[str, Mapping[str, str]] = {"h1:9807": {}, "h2:9807": labels, "h3:9807": {"rack": "r2"}}
    found = dict(HONEST)
    found["host_cpus"] = [
        Series({**one.labels, "room": "a", **more[one.labels["instance"]]}, one.samples) for one in HONEST["host_cpus"]
    ]
    return look(found).observe(NOW).snapshot


@pytest.mark.parametrize("value", ODD)
def test_a_label_that_cannot_be_shown_is_none_and_harms_its_own_host_alone(value: str) -> None:
    snapshot = seen_with({"rack": value, "room\u202e": "x", "n" * 5000: "x"})
    usual = seen_with({})
    assert snapshot.hosts[1].labels in ({"room": "a"}, {"room": "a", "rack": ""})
    assert (snapshot.hosts[0], snapshot.hosts[2]) == (usual.hosts[0], usual.hosts[2])
    assert read_snapshot(write_snapshot(snapshot), "x") == snapshot
    policy = Policy(rules=RACKS, reserve=(Reserve(memory_bytes=1, hosts=("rack=*",)),), repair_rules=True)
    made, expected = plan(snapshot, policy), plan(usual, policy)
    assert where(made) == where(expected)
    assert made.notes == expected.notes
    assert all(note.isprintable() for note in made.notes)


def test_a_host_with_labels_without_number_is_unknown_and_hides_none_of_its_targets() -> None:
    """Its exporter may add labels. Those that sort before its rack would push out what keeps domains off it."""
    crowd = {f"a{number:03}": "x" for number in range(100)}
    snapshot, usual = seen_with({"rack": "r1", **crowd}), seen_with({"rack": "r1"})
    assert usual.hosts[1].known
    unknown = snapshot.hosts[1].why_unknown
    assert unknown is not None
    assert unknown.text == "its target has 104 labels, more than 64"
    assert (snapshot.hosts[0], snapshot.hosts[2]) == (usual.hosts[0], usual.hosts[2])
    assert not any(move.destination == "h2" for move in plan(snapshot, Policy()).moves)


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(st.text(max_size=8), st.text(max_size=12), max_size=4), st.text("*?[]!-=r1\n\\", max_size=8))
def test_whatever_a_target_is_labelled_a_plan_is_made_and_can_be_read(labels: dict[str, str], pattern: str) -> None:
    snapshot = seen_with({"rack": pattern, **labels})
    assert all(re.fullmatch(r"[ -~]*", text) for one in snapshot.hosts for pair in one.labels.items() for text in pair)
    rules = replace(RACKS[0], hosts=(f"rack={pattern}",)), RACKS[2]
    assert read_snapshot(write_snapshot(snapshot), "x") == snapshot
    plan(snapshot, Policy(rules=rules, repair_rules=True))


def test_a_rack_that_is_named_like_a_pattern_is_that_rack_alone() -> None:
    """A domain that asks to be apart from those in it is kept out of it, and of no other."""
    racks = {"h0": "*", "h1": "*", "h2": "r1", "h3": "[!x]"}
    loads = {"h0": 0.1, "h1": 0.1, "h2": 0.5, "h3": 0.2}
    hosts = [replace(host(name, *[loads[name]] * 3), labels={"rack": rack}) for name, rack in racks.items()]
    db = Rule(name="db", kind="apart", domains=("db",), over="rack")
    asks = domain("vm", "h3", 0.5, placement=Placement(apart=("db",)))
    seen = with_drains(group(*hosts, domain("db", "h0"), asks), {"h3": DrainOrder(host="h3", draining=True, at=0.0)})
    assert where(plan(seen, Policy(rules=(db,)))) == {"vm": "h2"}
