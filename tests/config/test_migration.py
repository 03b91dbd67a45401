"""The section migration: what may be combined, and the addresses and limits that it makes."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from virtpoise_balancer.config import parse_config
from virtpoise_balancer.config.migration import Migration
from virtpoise_balancer.errors import BadInput, LibvirtError
from virtpoise_balancer.execute.transfer import Throttle, Transfer
from virtpoise_balancer.execute.workers import Workers
from virtpoise_balancer.service import wiring

WINDOW = "bandwidth_windows: [{{cron: '{}', duration_seconds: 60, bandwidth_mib_per_second: 1}}]"


def migration(text: str) -> Migration:
    return parse_config(f"migration: {{{text}}}", "x").migration


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def test_a_host_has_an_address_on_the_network_of_migrations() -> None:
    made = migration('network: "{host}-migration.example.org", hosts: {h2: 10.1.0.2, h3: "fd00:0::3"}')
    assert [made.address_of(host) for host in ("h1", "h2", "h3")] == ["h1-migration.example.org", "10.1.0.2", "fd00::3"]
    assert migration("").address_of("h1") is None
    assert migration("hosts: {h2: 10.1.0.2}").address_of("h1") is None


@pytest.mark.parametrize("host", ["h1;touch /tmp/x", "h1/../x", "-oProxyCommand=x", "fd00::1", "h1:49152", "h1 h2", ""])
def test_what_is_no_name_of_a_host_gets_no_address(host: str) -> None:
    with pytest.raises(LibvirtError, match=r"migration\.network makes no address of "):
        migration('network: "{host}-m"').address_of(host)


@pytest.mark.parametrize(
    "network",
    ["m.example.org", "tcp://{host}", "{host}:49152", "{host}{host}", "-{host}", "{host}/x", "{host} ", "{h}"],
)
def test_a_network_is_a_pattern_of_names(network: str) -> None:
    with pytest.raises(BadInput, match=r"x: migration\.network: expected a DNS name with \{host\} in it once"):
        migration(f'network: "{network}"')


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("compression: zstd", "compression: expected parallel of at least 2 with zstd"),
        ("compression: xbzrle, parallel: 2", "compression: expected parallel of 1 with xbzrle"),
        ("zstd_level: 21", "zstd_level: expected less than or equal to 20, got 21"),
        ("compression: xbzrle, xbzrle_cache_mib: 65", "xbzrle_cache_mib: expected a power of two, got 65"),
        ("compression: on", "compression: expected 'off', 'xbzrle' or 'zstd', got True"),
        ("parallel: 256", "parallel: expected less than or equal to 255, got 256"),
        ("max_downtime_seconds: 0", "max_downtime_seconds: expected greater than or equal to 0.001, got 0"),
        ("throttle_initial_ratio: 20", "throttle_initial_ratio: expected less than or equal to 0.99, got 20"),
        ("hosts: {h1: 10.1.0.1/24}", "hosts.h1: expected "),
        (WINDOW.format("0 8 * *"), "bandwidth_windows.0.cron: expected five fields of cron"),
        (
            WINDOW.format("0 8 * * 1-5"),
            "bandwidth_windows.0.cron: expected five fields of cron that come at all, with days of the week by name",
        ),
        (WINDOW.format("0 8 31 2 *"), "bandwidth_windows.0.cron: expected five fields of cron that come at all"),
        (WINDOW.format("99 8 * * *"), "bandwidth_windows.0.cron: expected five fields of cron"),
        (WINDOW.format("* * * * *', time_zone: 'Mars/Utopia"), "bandwidth_windows.0.time_zone: expected a time zone"),
        (
            "bandwidth_windows: [{cron: '0 8 * * *', duration_seconds: 60}]",
            "bandwidth_windows.0.bandwidth_mib_per_second: ",
        ),
        (
            "bandwidth_windows: [{cron: '0 8 * * *', bandwidth_mib_per_second: 1, duration_seconds: 1}]",
            "bandwidth_windows.0.duration_seconds: expected greater than or equal to 60",
        ),
    ],
)
def test_what_cannot_be_combined_is_refused_in_one_line(text: str, says: str) -> None:
    with pytest.raises(BadInput) as refused:
        migration(text)
    assert str(refused.value).startswith(f"x: migration.{says}")
    assert "\n" not in str(refused.value)


def test_what_is_configured_is_what_libvirt_is_asked_for() -> None:
    def asked(text: str) -> Transfer:
        with Workers() as workers:
            return wiring.make_hosts(parse_config(f"migration: {{{text}}}", "x"), workers).transfer

    throttle = Throttle(initial_percent=20, increment_percent=10)
    assert asked("") == Transfer(throttle=throttle, max_downtime_seconds=0.3)
    assert asked("compression: zstd, parallel: 4, zstd_level: 3, encryption: required") == Transfer(
        throttle=throttle, max_downtime_seconds=0.3, compression="zstd", connections=4, zstd_level=3, encrypted=True
    )
    assert asked("compression: xbzrle, auto_converge: false, max_downtime_seconds: 1") == Transfer(
        max_downtime_seconds=1.0, compression="xbzrle", xbzrle_cache_bytes=64 << 20
    )


def test_the_first_window_that_is_open_limits_the_bandwidth() -> None:
    made = migration(
        "bandwidth_mib_per_second: 200, bandwidth_windows: ["
        "{cron: '0 8 * * mon-fri', duration_seconds: 36000, bandwidth_mib_per_second: 50}, "
        "{cron: '30 17 * * *', duration_seconds: 1800, bandwidth_mib_per_second: 9}]"
    )
    limits = {
        "2026-11-27T07:59:59": 200,
        "2026-11-27T08:00:00": 50,
        "2026-11-27T17:59:59": 50,
        "2026-11-27T18:00:00": 200,
        "2026-11-28T08:00:00": 200,
        "2026-11-28T17:29:59": 200,
        "2026-11-28T17:30:00": 9,
    }
    assert {moment: made.bandwidth_at(at(moment)) for moment in limits} == limits
    assert migration("").bandwidth_at(0) is None


def test_a_window_begins_in_its_own_time_zone_and_may_reach_into_the_next_day() -> None:
    made = migration(
        "bandwidth_windows: [{cron: '0 22 * * fri', duration_seconds: 36000, time_zone: Europe/Berlin, "
        "bandwidth_mib_per_second: 7}]"
    )
    limits = {
        "2026-07-03T19:59:59": None,  # summer: two hours before UTC
        "2026-07-03T20:00:00": 7,
        "2026-11-27T20:59:59": None,
        "2026-11-27T21:00:00": 7,
        "2026-11-28T06:59:59": 7,
        "2026-11-28T07:00:00": None,
    }
    assert {moment: made.bandwidth_at(at(moment)) for moment in limits} == limits
