"""The configuration: its promised defaults, and one line for each mistake."""

import pytest

from virtpoise_balancer.config import Config, parse_config
from virtpoise_balancer.errors import BadInput, LibvirtError

BLUE = "matchers: 'cluster=\"blue\"'"
LAUGHS = "\n".join(
    [
        f"{one}: &{one} [{', '.join([f'*{before}' if before != 'x' else 'x'] * 10)}]"
        for before, one in zip("xabcdef", "abcdefg", strict=True)
    ]
)


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        (
            "cron: 0 8 * *, time_zone: UTC",
            "windows.0.cron: expected five fields of cron such as 0 8 * * mon-fri, got '0 8 * *' (it has 4)",
        ),
        ("cron: 61 8 * * *", "(minute)"),
        ("cron: 0 8 * * mon-fry", "(day-of-week)"),
        ("cron: 0 8 31 2 *", "(day-of-month)"),
        ("cron: 0 8 * * 1L/2", "got '0 8 * * 1L/2' (day-of-week)"),
        ("cron: 0 8 L/2 * L#1", "windows.0.cron: expected five fields"),
        (
            "cron: 0 8 * * *, time_zone: Mars/Olympus",
            "windows.0.time_zone: expected a time zone such as Europe/Berlin, got 'Mars/Olympus'",
        ),
        ("cron: 0 8 * * *, time_zone: ../../etc/passwd", "windows.0.time_zone: expected a time zone"),
        ("cron: 0 8 * * *, time_zone: Europe", "windows.0.time_zone: expected a time zone"),
        (
            "cron: 0 8 * * *, duration_seconds: 10",
            "windows.0.duration_seconds: expected greater than or equal to 60, got 10",
        ),
        ("cron: 0 8 * * *, until: 9", "windows.0.until: unknown key"),
    ],
)
def test_a_window_that_cannot_be_used_is_refused_in_one_line_with_its_field(window: str, expected: str) -> None:
    duration = "" if "duration" in window else ", duration_seconds: 3600"
    with pytest.raises(BadInput) as error:
        parse_config(f"policy: {{windows: [{{name: day, {window}{duration}}}]}}", "virtpoise.yml")
    (line,) = str(error.value).splitlines()
    assert line.startswith("virtpoise.yml: policy.windows.0.")
    assert expected in line


def test_two_windows_with_one_name_are_refused() -> None:
    window = "{name: day, cron: 0 8 * * *, duration_seconds: 3600}"
    with pytest.raises(BadInput, match=r"policy\.windows\.1\.name: expected each name once, got 'day' again"):
        parse_config(f"policy: {{windows: [{window}, {window}]}}", "virtpoise.yml")


def test_promised_defaults() -> None:
    config = parse_config("", "x")
    assert config == Config()
    assert config.prometheus.url == "http://127.0.0.1:9090"
    assert config.libvirt.uri == "qemu+ssh://{host}/system"
    assert config.state.url == "sqlite:////var/lib/virtpoise/virtpoise.db"
    assert (config.mode, config.interval_seconds) == ("recommend", 10)
    policy = config.policy
    assert policy.strategy == "default"
    for trigger, threshold, recovery in (
        (policy.cpu, 0.8, 0.75),
        (policy.memory, 0.9, 0.85),
        (policy.network, 0.9, 0.85),
    ):
        assert (trigger.threshold, trigger.consecutive) == (threshold, 3)
        assert trigger.recovery_ratio == pytest.approx(recovery)
    assert (policy.penalty.initial_seconds, policy.penalty.step_seconds) == (190, 10)
    assert policy.rest_seconds == 1800


def test_a_part_of_a_section_leaves_the_rest_at_its_defaults() -> None:
    config = parse_config("policy: {cpu: {consecutive: 5}, memory: {consecutive: 2}}", "x")
    assert (config.policy.cpu.threshold, config.policy.cpu.consecutive) == (0.8, 5)
    assert (config.policy.memory.threshold, config.policy.memory.consecutive) == (0.9, 2)


def test_the_recovery_level_follows_the_threshold() -> None:
    assert parse_config("policy: {cpu: {threshold: 0.6}}", "x").policy.cpu.recovery_ratio == pytest.approx(0.55)


def test_a_host_may_have_an_address_of_its_own() -> None:
    libvirt = parse_config(
        'libvirt: {uri: "qemu+tls://{host}/system", hosts: {h2: "qemu+tcp://10.0.0.2/system"}}', "x"
    ).libvirt
    assert (libvirt.uri_of("h1"), libvirt.uri_of("h2")) == ("qemu+tls://h1/system", "qemu+tcp://10.0.0.2/system")


def test_hosts_may_reach_each_other_by_other_addresses_than_the_balancer() -> None:
    text = 'libvirt: {uri: "qemu+ssh://b@{host}/system", hosts: {h2: "qemu+tcp://10.0.0.2/system"}%s}'
    same = parse_config(text % "", "x").libvirt
    assert [same.peer_uri_of(host) for host in ("h1", "h2")] == [same.uri_of(host) for host in ("h1", "h2")]
    other = parse_config(text % ', host_uri: "qemu+ssh://peer@{host}/system"', "x").libvirt
    assert [other.uri_of(host) for host in ("h1", "h2")] == ["qemu+ssh://b@h1/system", "qemu+tcp://10.0.0.2/system"]
    assert other.peer_uri_of("h1") == "qemu+ssh://peer@h1/system"
    assert other.peer_uri_of("h2") == "qemu+ssh://peer@h2/system"
    with pytest.raises(LibvirtError, match="is not connected to: expected a DNS name or an IP address"):
        other.peer_uri_of("h1/system?command=/bin/sh")


def test_a_host_that_its_peers_could_not_address_is_not_admitted() -> None:
    libvirt = parse_config(
        'libvirt: {uri: "qemu+ssh://{host}/system", host_uri: "qemu+ssh://m-{host}/system"}', "x"
    ).libvirt
    assert libvirt.admission()("h1")
    assert not libvirt.admission()("fd00::1")


@pytest.mark.parametrize(
    ("text", "encryption"),
    [
        ("{}", "off"),
        ("{encryption: off}", "off"),
        ("{encryption: 'off'}", "off"),
        ("{encryption: required}", "required"),
    ],
)
def test_encryption_of_migrations_is_off_unless_required(text: str, encryption: str) -> None:
    assert parse_config(f"migration: {text}", "x").migration.encryption == encryption


@pytest.mark.parametrize(
    "url", ["https://v.example.org", "http://localhost:9808", "http://[::1]:9", "http://127.0.0.2"]
)
def test_browsers_send_tokens_over_tls_or_within_this_machine(url: str) -> None:
    assert parse_config(f"web: {{external_url: '{url}'}}", "x").web.external_url == url


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("polcy: {}", "x.yml: polcy: unknown key"),
        ("policy: {cpu: {treshold: 0.6}}", "x.yml: policy.cpu.treshold: unknown key"),
        ("policy: {cpu: {threshold: 1.4}}", "x.yml: policy.cpu.threshold: expected less than or equal to 1, got 1.4"),
        ("policy: {cpu: {threshold: 0}}", "x.yml: policy.cpu.threshold: expected greater than 0, got 0"),
        (
            "policy: {cpu: {consecutive: 0}}",
            "x.yml: policy.cpu.consecutive: expected greater than or equal to 1, got 0",
        ),
        (
            "policy: {cpu: {threshold: 0.5, recovery: 0.6}}",
            "x.yml: policy.cpu.recovery: expected at most the threshold",
        ),
        (
            "policy: {reserve: [{memory_bytes: 1}, {memory_bytes: 2, hosts: [h1]}]}",
            "x.yml: policy.reserve.0: expected hosts, or the last place",
        ),
        ("policy: {reserve: [{hosts: [h1]}]}", "x.yml: policy.reserve.0.memory_bytes: missing"),
        ("policy: {reserve: [{memory_bytes: -1}]}", "x.yml: policy.reserve.0.memory_bytes: expected greater than"),
        ("policy: {reserve: [{memory_bytes: 4GiB}]}", "x.yml: policy.reserve.0.memory_bytes: expected"),
        ("policy: {overcommit: {memory_ratio: 0}}", "x.yml: policy.overcommit.memory_ratio: expected greater than 0"),
        ("policy: {strategy: best}", "x.yml: policy.strategy: expected 'default' or 'thesis', got 'best'"),
        ("migration: {encryption: on}", "x.yml: migration.encryption: expected 'required' or 'off', got True"),
        (
            "libvirt: {host_uri: qemu:///system}",
            "x.yml: libvirt.host_uri: expected a libvirt address with {host} in it",
        ),
        ("mode: auto", "x.yml: mode: expected 'recommend' or 'automatic', got 'auto'"),
        ("interval_seconds: .nan", "x.yml: interval_seconds: expected a finite number, got nan"),
        ("interval_seconds: -1", "x.yml: interval_seconds: expected greater than or equal to 0.001, got -1"),
        ("interval_seconds: 1.0e-300", "x.yml: interval_seconds: expected greater than or equal to 0.001"),
        ("interval_seconds: 1.0e+300", "x.yml: interval_seconds: expected less than or equal to 2678400"),
        ("prometheus: {timeout_seconds: 1.0e+300}", "x.yml: prometheus.timeout_seconds: expected less than or equal"),
        ("migration: {timeout_seconds: 1.0e+300}", "x.yml: migration.timeout_seconds: expected less than or equal"),
        (
            'libvirt: {hosts: {"2001:DB8::1": "qemu:///a", "2001:db8::1": "qemu:///b"}}',
            "x.yml: libvirt.hosts: expected each host once, got '2001:db8::1', which is '2001:DB8::1'",
        ),
        ("migration: {hosts: {H1: a, h1: b}}", "x.yml: migration.hosts: expected each host once, got 'h1', which"),
        (
            'libvirt: {hosts: {"::ffff:10.0.0.1": "qemu:///a", 10.0.0.1: "qemu:///b"}}',
            "x.yml: libvirt.hosts: expected each host once, got '10.0.0.1', which is '::ffff:10.0.0.1'",
        ),
        (
            "interval_seconds: 5\nprometheus: {scrape_interval_seconds: 10}",
            "x.yml: interval_seconds: expected at least",
        ),
        (
            "prometheus: {url: 'http://h:99999'}",
            "x.yml: prometheus.url: expected an address like http://127.0.0.1:9090",
        ),
        ("prometheus: {url: 'http://h:port'}", "x.yml: prometheus.url: expected an address like http://127.0.0.1:9090"),
        ("prometheus: {url: 'http://[::1'}", "x.yml: prometheus.url: expected an address like http://127.0.0.1:9090"),
        ("prometheus: {url: 'http://:9090'}", "x.yml: prometheus.url: expected an address like http://127.0.0.1:9090"),
        ("web: {external_url: 'https://[h'}", "x.yml: web.external_url: expected an address like"),
        ("prometheus: {url: ftp://x}", "x.yml: prometheus.url: expected an address like http://127.0.0.1:9090"),
        ("prometheus: {queries: {host_cpu: up}}", "x.yml: prometheus.queries: expected names of queries"),
        ("libvirt: {uri: qemu:///system}", "x.yml: libvirt.uri: expected a libvirt address with {host} in it once"),
        (
            "state: {url: virtpoise.db}",
            "x.yml: state.url: expected a file of SQLite by its whole path, like sqlite:////",
        ),
        ("state: {url: 'sqlite:///here.db'}", "x.yml: state.url: expected a file of SQLite by its whole path"),
        ("state: {url: 'sqlite://'}", "x.yml: state.url: expected a file of SQLite"),
        (
            "state: {url: 'postgresql://db/virtpoise'}",
            "x.yml: state.url: expected a database like postgresql+psycopg://",
        ),
        ("state: {url: 'postgresql+psycopg://db'}", "x.yml: state.url: expected a database like postgresql+psycopg://"),
        ("state: {url: 'postgresql+psycopg://db:port/v'}", "x.yml: state.url: expected a database like postgresql"),
        ("web: {external_url: http://virtpoise.example.org}", "x.yml: web.external_url: expected an https address"),
        ("web: {external_url: virtpoise.example.org}", "x.yml: web.external_url: expected an address"),
        ("web: {listen_address: localhost}", "x.yml: web.listen_address: expected an address and a port"),
        ("- a", "x.yml: expected"),
        ("a: [", "x.yml: expected YAML: "),
        ("log: {level: 2024-02-30}", "x.yml: expected YAML: day is out of range for month"),
        ('prometheus: {token_file: "a\\0"}', "x.yml: prometheus.token_file: expected text without a zero byte"),
        (
            'prometheus: {token_file: "a\\ud800"}',
            "x.yml: prometheus.token_file: expected text without a zero byte or half",
        ),
        ("log: {level: !!timestamp x}", "x.yml: expected YAML: a value is not of the kind that its tag (such as "),
        (f"interval_seconds: 0x{'f' * 5000}", "x.yml: expected YAML: a number of more than 1000 characters"),
        (f"interval_seconds: 1{':59' * 3000}", "x.yml: expected YAML: a number of more than 1000 characters"),
        (f"policy:\n  ? 0x{'f' * 5000}\n  : 1", "x.yml: expected YAML: a number of more than 1000 characters"),
        ("[" * 3000, "x.yml: expected YAML: maximum recursion depth exceeded"),
        (
            f"policy: &p {{cpu: *p}}\ngroups: {{a: {{{BLUE}, policy: *p}}}}",
            "x.yml: policy.cpu: expected a value that does not",
        ),
        (f"groups: {{a: &a {{{BLUE}, policy: *a}}}}", "x.yml: groups.a.policy: expected a value that does not contain"),
        (f"groups: {{a: &a {{{BLUE}, <<: *a}}}}", "x.yml: groups.a.<<: expected a value that does not contain itself"),
        ("policy: {rules: &r [*r]}", "x.yml: policy.rules.0: expected a value that does not contain itself"),
        ("libvirt: &l {? *l : x}", "x.yml: libvirt.(key at line 1): expected a value that does not contain itself"),
        ("&a [*a]", "x.yml: 0: expected a value that does not contain itself"),
        (LAUGHS, "x.yml: expected at most 1000000 values, got more by aliases of aliases"),
    ],
)
def test_each_mistake_is_one_line_that_names_the_key(text: str, says: str) -> None:
    with pytest.raises(BadInput) as refused:
        parse_config(text, "x.yml")
    assert str(refused.value).startswith(says)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("address", ["127.0.0.1:9808", "localhost:0", "[::1]:9808", "[::]:1", "[fe80::1%eth0]:9808"])
def test_where_to_listen(address: str) -> None:
    assert parse_config(f"web: {{listen_address: '{address}'}}", "x").web.listen_address == address


@pytest.mark.parametrize("address", ["::1:9808", "[::1]", "[::1:9808", "h1:99999", ":9808", "[h1]:9808", "a b:1"])
def test_where_nothing_can_listen_is_refused(address: str) -> None:
    with pytest.raises(BadInput, match=r"x: web\.listen_address: expected an address and a port like .*\[::1\]:9808"):
        parse_config(f"web: {{listen_address: '{address}'}}", "x")


def test_all_mistakes_of_a_file_are_named_at_once_one_line_each() -> None:
    text = """
mode: auto
mode: automatic
policy:
  cpu: {threshold: 0.5, recovery: 0.6, threshold: 0.4}
  rules:
    - {name: r, kind: apart, domains: [a]}
    - {name: r, kind: never_on, domains: [a]}
libvirt: {hosts: {"a b": "qemu://h/system", h1: "qemu+ssh://u:secret@h1/system", h2: "qemu://[h2]/system"}}
prometheus: {matchers: job}
web: {listen_address: "::1:9808"}
colour: red
"""
    with pytest.raises(BadInput) as refused:
        parse_config(text, "x.yml")
    lines = str(refused.value).splitlines()
    assert all(line.startswith("x.yml: ") and line.isprintable() for line in lines)
    assert {line.split(": ")[1] for line in lines} == {
        "mode",
        "policy.cpu.threshold",
        "policy.cpu.recovery",
        "policy.rules.0.domains",
        "policy.rules.1.name",
        "policy.rules.1.hosts",
        "libvirt.hosts.a b.[key]",
        "libvirt.hosts.h1",
        "libvirt.hosts.h2",
        "prometheus.matchers",
        "web.listen_address",
        "colour",
    }
    assert "x.yml: mode: expected each key once, got it again at line 3 (first at 2)" in lines
    assert "secret" not in str(refused.value)


def test_one_key_in_two_sections_or_items_and_an_anchor_are_no_repetition() -> None:
    rules = ", ".join(f"{{name: {name}, kind: ignore, domains: [x]}}" for name in "ab")
    text = f"policy: {{cpu: &t {{threshold: 0.7}}, memory: *t, rules: [{rules}]}}"
    assert parse_config(text, "x").policy.memory.threshold == 0.7


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://u:hunter2@db/virtpoise",
        "postgresql+psycopg://u@db/virtpoise?password=hunter2",
        "postgresql+psycopg://u@db/virtpoise?sslpassword=hunter2",
        "postgresql+psycopg://u@db/virtpoise?options=hunter2",
        "postgresql+psycopg://u:hunter2@[db/virtpoise",
        "postgresql://u:hunter2@db/virtpoise",
    ],
)
def test_a_password_in_the_address_of_the_store_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(BadInput, match=r"^x\.yml: state\.url: expected an address without a password") as refused:
        parse_config(f"state: {{url: '{url}'}}", "x.yml")
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://virtpoise@db.example.org/virtpoise",
        "postgresql+psycopg:///virtpoise?host=/run/postgresql",
        "postgresql+psycopg://v@db:5433/virtpoise?sslmode=verify-full&sslrootcert=/etc/ca.pem&passfile=/etc/pgpass",
    ],
)
def test_a_database_of_postgresql_is_accepted(url: str) -> None:
    assert parse_config(f"state: {{url: '{url}'}}", "x.yml").state.url == url
