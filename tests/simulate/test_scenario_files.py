"""Scenario files that are not as expected are refused in lines that name the field, all at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from virtpoise_balancer.errors import BadInput
from virtpoise_balancer.simulate.outcome import play_scenario
from virtpoise_balancer.simulate.scenario import read_scenario

GOOD = """
name: small
duration_minutes: 5
hosts:
  - {name: h, count: 2, cpus: 4, memory_gib: 8}
domains:
  - {name: vm, count: 2, memory_gib: 1, load: {shape: constant, cores: 0.5}}
events:
  - {event: drain, host: h1, at_minutes: 1}
"""


def refused(tmp_path: Path, text: str) -> list[str]:
    file = tmp_path / "scenario.yml"
    file.write_text(text)
    with pytest.raises(BadInput) as refusal:
        play_scenario(read_scenario(file), tmp_path)
    return [line.removeprefix(f"{file}: ") for line in str(refusal.value).splitlines()]


def test_a_good_file_is_played(tmp_path: Path) -> None:
    file = tmp_path / "scenario.yml"
    file.write_text(GOOD)
    assert play_scenario(read_scenario(file), tmp_path).failures == ()


@pytest.mark.parametrize(
    ("replaced", "by", "lines"),
    [
        ("name: small", "nam: small", ["nam: unknown key", "name: missing"]),
        (
            "duration_minutes: 5",
            "duration_minutes: -1",
            ["duration_minutes: expected greater than or equal to 0.001, got -1"],
        ),
        (
            "cpus: 4, memory_gib: 8",
            "cpus: none",
            [
                "hosts.0.cpus: expected a valid integer, unable to parse string as an integer, got 'none'",
                "hosts.0.memory_gib: missing",
            ],
        ),
        ("shape: constant", "shape: square", ["domains.0.load.0: "]),
        (
            "cores: 0.5}",
            "core: 0.5}",
            ["domains.0.load.0.constant.core: unknown key", "domains.0.load.0.constant.cores: missing"],
        ),
        ("event: drain", "event: dran", ["events.0: "]),
        ("host: h1", "host: h7", ["events.0.host: expected the name of a host, got 'h7'"]),
        ("at_minutes: 1", "at_minutes: 9", ["events.0.at_minutes: expected less than duration_minutes (5)"]),
        (
            "count: 2, memory_gib: 1",
            "hosts: [x*], memory_gib: 1",
            ["domains.0.hosts.0: expected one of the hosts or a pattern of them, got 'x*'"],
        ),
        (
            "duration_minutes: 5",
            "duration_minutes: 527040\nconfig: {interval_seconds: 1}",
            ["duration_minutes: expected at most 20000000 steps"],
        ),
        (
            "name: small",
            "name: small\nconfig: {policy: {cpu: {threshold: 8}}}",
            ["config.policy.cpu.threshold: expected less than or equal to 1, got 8"],
        ),
        (
            "name: small",
            "name: small\nexpect: {moves: {}}",
            ["expect.moves: expected one of exactly, least, most, most_of_without"],
        ),
        ("name: small", "name: small\nexpect: {move: {most: 1}}", ["expect.move: unknown key"]),
        ("name: small", "name: small\nexpect: {refusals: {no_reason: {most: 1}}}", ["expect.refusals.no_reason"]),
        (
            "shape: constant, cores: 0.5",
            "shape: trace, file: none.csv",
            ["none.csv: cannot be read: No such file or directory"],
        ),
        (
            "shape: constant, cores: 0.5",
            "shape: trace, file: scenario.yml",
            ["expected rows of numbers, all of one length"],
        ),
        ("name: small", "name: [", ["expected YAML: "]),
        ("name: h,", "name: 'h 1',", ["hosts.0.name: expected the name of a host"]),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, replaced: str, by: str, lines: list[str]) -> None:
    found = refused(tmp_path, GOOD.replace(replaced, by, 1))
    assert len(found) == len(lines)
    for line, expected in zip(found, lines, strict=True):
        assert expected in line


def test_all_mistakes_come_at_once(tmp_path: Path) -> None:
    text = (
        GOOD.replace("host: h1", "host: h7").replace("name: vm, count: 2", "name: h, hosts: [y]")
        + "  - {event: stopped, domain: z}\n"
    )
    assert refused(tmp_path, text) == [
        "domains.0.hosts.0: expected one of the hosts or a pattern of them, got 'y'",
        "events.0.host: expected the name of a host, got 'h7'",
        "events.1.domain: expected the name of a domain, got 'z'",
    ]


def test_names_stand_once(tmp_path: Path) -> None:
    more = "  - {name: h2, cpus: 1, memory_gib: 1}\ndomains:\n  - {name: vm2, load: {shape: constant, cores: 1}}\n"
    assert refused(tmp_path, GOOD.replace("domains:\n", more, 1)) == [
        "hosts.1.name: expected each name once, got 'h2' again",
        "domains.1.name: expected each name once, got 'vm2' again",
    ]
