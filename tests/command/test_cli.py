"""The command line as its user meets it: each mistake one line and exit status 2, each answer in both forms."""

import getpass
import io
import json
import os
import socket
import sqlite3
import subprocess
import sys
from contextlib import closing, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Response

from builders import domain, group, host
from virtpoise_balancer.command import terminal
from virtpoise_balancer.command.main import main
from virtpoise_balancer.config import read_config
from virtpoise_balancer.formats import read_snapshot
from virtpoise_balancer.model import DomainState, HostState
from virtpoise_balancer.service import wiring

LOAD = {"cpu_ratio": 0.5, "cpu_ratio_lower": 0.4, "cpu_ratio_upper": 0.6}
HOST = {"name": "h1", "cpus": 8, "cpu_ratio": [0.9, 0.9, 0.9], "memory_bytes": 8_000_000_000}
SNAPSHOT = {
    "format": "virtpoise/snapshot/1",
    "time": 1000.0,
    "step_seconds": 10,
    "hosts": [HOST, HOST | {"name": "h2", "cpu_ratio": [0.1, 0.1, 0.1]}],
    "domains": [
        {"name": "[red]vm1", "uuid": "u1", "host": "h1", "cpu_cores": 2.0},
        {"name": "vm2", "uuid": "u2", "host": "h1", "cpu_cores": 0.5},
    ],
}


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


def virtpoise(*arguments: str) -> Done:
    """The command without a process of its own, as a process would answer."""
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        code = main(arguments)
    return Done(code, out.getvalue(), err.getvalue())


def process(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "virtpoise_balancer", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def refused(*arguments: str) -> str:
    """The one line that a refused command says."""
    done = virtpoise(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    return done.stderr.strip()


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    path = tmp_path / "cluster.json"
    path.write_text(json.dumps(SNAPSHOT))
    return path


def test_plans_offline_as_json(snapshot: Path, tmp_path: Path) -> None:
    policy = tmp_path / "policy.yml"
    policy.write_text("policy: {strategy: thesis, cpu: {threshold: 0.8, consecutive: 2}}")
    done = virtpoise("plan", "--snapshot", str(snapshot), "--config", str(policy), "--output", "json")
    assert done.returncode == 0
    plan = json.loads(done.stdout)
    assert (plan["format"], plan["strategy"], plan["solved"]) == ("virtpoise/plan/1", "thesis", True)
    assert plan["overloaded"] == [{"host": "h1", "resource": "cpu", "ratio": 0.9, "consecutive": 3}]
    (move,) = plan["moves"]
    assert (move["domain"], move["source"], move["destination"]) == ("[red]vm1", "h1", "h2")
    assert move["predicted"]["source"]["cpu_ratio"] == pytest.approx(0.675)
    assert set(plan["scores"]["domains"]) == {"[red]vm1", "vm2"}


def test_a_plan_of_one_group_says_nothing_of_what_groups_share(snapshot: Path, tmp_path: Path) -> None:
    """Another group may have what a common rule names."""
    rule = "policy: {rules: [{name: NAME, kind: ignore, domains: [gone]}]}"
    config = tmp_path / "virtpoise.yml"
    config.write_text(
        f"{rule.replace('NAME', 'common')}\n"
        f"groups: {{blue: {{matchers: 'c=\"b\"'}}, red: {{matchers: 'c=\"r\"', {rule.replace('NAME', 'own')}}}}}\n"
    )
    plans = {
        group: json.loads(
            virtpoise(
                "plan", "--snapshot", str(snapshot), "--config", str(config), "-g", group, "--output", "json"
            ).stdout
        )
        for group in ("blue", "red")
    }
    assert plans["blue"].get("notes", []) == []
    assert plans["red"]["notes"] == ["the rule 'own' names 'gone', and no domain is called so"]


def test_plans_offline_as_a_table_and_never_reads_a_name_as_markup(snapshot: Path) -> None:
    done = virtpoise("plan", "--snapshot", str(snapshot))
    assert done.returncode == 0
    assert "[red]vm1" in done.stdout


def test_a_problem_that_stands_is_exit_status_1(tmp_path: Path) -> None:
    alone = tmp_path / "alone.json"
    alone.write_text(json.dumps(SNAPSHOT | {"hosts": [HOST]}))
    assert virtpoise("plan", "--snapshot", str(alone), "--output", "json").returncode == 1


def changed(**changes: object) -> dict[str, object]:
    return SNAPSHOT | changes


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("not json", "expected JSON"),
        (
            json.dumps(changed(hosts=[HOST | {"memory_bytes": 0}])),
            "hosts.0.memory_bytes: expected greater than 0, got 0",
        ),
        (
            json.dumps(changed(hosts=[HOST | {"cpu_ratio": [float("nan")]}])),
            "hosts.0.cpu_ratio.0: expected a finite number",
        ),
        (
            json.dumps(changed(domains=[{"name": n, "uuid": "u", "host": "h1"} for n in "ab"])),
            "domains.1.uuid: expected each uuid once, got 'u' of 'a' again",
        ),
        (
            json.dumps(changed(domains=[{"name": "a", "uuid": "u", "host": "h9"}])),
            "domains.0.host: expected a host of this snapshot, got 'h9'",
        ),
        (json.dumps(changed(hosts=[HOST | {"cpus": 10**18}])), "hosts.0.cpus: expected less than or equal to 65536"),
        (json.dumps(changed(hosts=[HOST | {"cpus": 1e20}])), "hosts.0.cpus: expected "),
        (
            json.dumps(changed(domains=[{"name": "a", "uuid": "u", "host": "h1", "vcpus": 10**18}])),
            "domains.0.vcpus: expected less than or equal to 65536",
        ),
        (json.dumps(changed(hosts=[HOST, HOST])), "hosts.1.name: expected each host once, got 'h1' again"),
        (json.dumps(changed(colour="red")), "colour: unknown key"),
        (json.dumps(changed(format="virtpoise/snapshot/9")), "format: expected 'virtpoise/snapshot/1'"),
    ],
)
def test_a_snapshot_that_is_none_is_refused_with_the_field(tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(content)
    assert says in refused("plan", "--snapshot", str(path))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("polcy: {}", "polcy: unknown key"),
        ("policy: {cpu: {threshold: 1.5}}", "policy.cpu.threshold: expected less than or equal to 1, got 1.5"),
        ("policy: {cpu: {consecutive: 0}}", "policy.cpu.consecutive: expected greater than or equal to 1, got 0"),
    ],
)
@pytest.mark.parametrize("command", ["check-config", "run", "plan"])
def test_a_wrong_configuration_is_refused_by_every_command(
    tmp_path: Path, snapshot: Path, text: str, says: str, command: str
) -> None:
    path = tmp_path / "virtpoise.yml"
    path.write_text(text)
    arguments = {
        "check-config": ["check-config", str(path)],
        "run": ["run", "--config", str(path)],
        "plan": ["plan", "--snapshot", str(snapshot), "--config", str(path)],
    }[command]
    assert refused(*arguments) == f"virtpoise: {path}: {says}"


@pytest.fixture
def closed() -> str:
    """An address where nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def written(tmp_path: Path, prometheus: str, listen: str = "127.0.0.1:0") -> Path:
    path = tmp_path / "virtpoise.yml"
    path.write_text(
        f"prometheus: {{url: 'http://{prometheus}', timeout_seconds: 0.5}}\n"
        f"state: {{url: 'sqlite:///{tmp_path}/state.db'}}\n"
        f"web: {{listen_address: '{listen}'}}\n"
        "libvirt: {pattern: h*}\n"
    )
    return path


def with_store(config: Path) -> Path:
    """The configuration, once the balancer has run with it."""
    wiring.make_store(read_config(config), lambda _row: None).close()
    return config


@pytest.mark.parametrize("command", ["run", "snapshot", "plan"])
def test_no_prometheus_is_an_error_of_one_line(tmp_path: Path, closed: str, command: str) -> None:
    said = refused(command, "--config", str(written(tmp_path, closed)))
    assert f"Prometheus at http://{closed} cannot be asked: " in said
    assert "refused" in said
    assert [left.name for left in tmp_path.iterdir()] == ["virtpoise.yml"]  # nothing was changed


@pytest.mark.parametrize("command", ["run", "snapshot", "plan"])
def test_a_prometheus_that_answers_html_is_an_error_of_one_line(
    tmp_path: Path, httpserver: HTTPServer, command: str
) -> None:
    httpserver.expect_request("/api/v1/query").respond_with_data("<html>sign in</html>", content_type="text/html")
    address = f"{httpserver.host}:{httpserver.port}"
    said = refused(command, "--config", str(written(tmp_path, address)))
    assert f"http://{address} does not answer as Prometheus does (200, text/html): expected JSON" in said


def test_no_balancer_is_an_error_of_one_line(tmp_path: Path, closed: str) -> None:
    said = refused("status", "--config", str(written(tmp_path, closed, listen=closed)))
    assert said.startswith(f"virtpoise: no balancer answers at {closed}")


def test_a_missing_file_is_an_error_of_one_line(tmp_path: Path) -> None:
    assert refused("run", "--config", f"{tmp_path}/none.yml").endswith(
        "none.yml: cannot be read: No such file or directory"
    )


@pytest.mark.parametrize(
    "command",
    [
        ["history"],
        ["history", "--orders"],
        ["plan", "--replay", "1"],
        ["pause"],
        ["mode", "recommend"],
        ["undrain", "h1"],
    ],
)
def test_a_command_makes_no_store_and_says_that_there_is_none(tmp_path: Path, closed: str, command: list[str]) -> None:
    said = refused(*command, "--config", str(written(tmp_path, closed)))
    assert said.endswith("state.db: there is no store yet; the balancer makes it when it first runs")
    assert [left.name for left in tmp_path.iterdir()] == ["virtpoise.yml"]


def test_doctor_says_that_the_folder_of_the_store_is_missing(tmp_path: Path, closed: str) -> None:
    config = written(tmp_path, closed)
    config.write_text(config.read_text().replace("state.db", "away/state.db"))
    done = virtpoise("doctor", "--config", str(config))
    assert f"✗ store: {tmp_path}/away: no such folder → make the folder" in " ".join(done.stdout.split())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can write to another user's folder")
def test_root_does_not_run_the_balancer_of_another_user(tmp_path: Path, closed: str) -> None:
    config = written(tmp_path, closed)
    os.chown(tmp_path, 65534, 65534)
    said = refused("run", "--config", str(config))
    assert said.startswith(
        "virtpoise: run: the folder of state.url belongs to nobody, who could not write to what root makes"
    )
    assert said.endswith("systemctl start virtpoise, or: runuser -u nobody -- virtpoise run")
    assert [left.name for left in tmp_path.iterdir()] == ["virtpoise.yml"]


def test_history_of_a_new_store_is_empty(tmp_path: Path, closed: str) -> None:
    config = str(with_store(written(tmp_path, closed)))
    assert virtpoise("history", "--config", config).stdout == "No migrations yet.\n"
    assert json.loads(virtpoise("history", "--config", config, "--output", "json").stdout) == []


def test_a_store_that_refuses_what_it_is_asked_is_told(tmp_path: Path, closed: str) -> None:
    config = ["--config", str(with_store(written(tmp_path, closed)))]
    with closing(sqlite3.connect(tmp_path / "state.db")) as database:
        database.execute("DROP TABLE migrations")
    assert "state.db: is incomplete, without migrations: restore it from a backup" in refused("history", *config)


def test_help_comes_at_once_because_nothing_heavy_is_imported() -> None:
    code = (
        "import sys; from virtpoise_balancer.command.main import main; main(['--help']);"
        "heavy = {'numpy', 'sqlalchemy', 'pydantic', 'requests', 'libvirt', 'rich', 'starlette', 'uvicorn', 'alembic'};"
        "sys.exit(','.join(sorted(heavy & set(sys.modules))) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Exit status" in done.stdout


def test_a_real_process_answers_as_its_exit_status_says(snapshot: Path) -> None:
    good = process("plan", "--snapshot", str(snapshot), "--output", "json")
    assert (good.returncode, json.loads(good.stdout)["solved"]) == (0, True)
    bad = process("plan", "--snapshot", "/nowhere")
    assert (bad.returncode, bad.stdout) == (2, "")
    assert bad.stderr == "virtpoise: /nowhere: cannot be read: No such file or directory\n"


def test_a_reader_that_goes_away_is_no_error(snapshot: Path) -> None:
    plan = subprocess.Popen(
        [sys.executable, "-m", "virtpoise_balancer", "plan", "--snapshot", str(snapshot)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert plan.stdout is not None
    plan.stdout.close()
    _, said = plan.communicate(timeout=60)
    assert (plan.returncode, said) == (0, b"")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--colour"], "No such option: --colour"),
        (["paln"], "No such command 'paln'"),
        (["drain"], "Missing argument 'HOST'"),
        (["mode", "sometimes"], "'sometimes' is not one of 'recommend', 'automatic'"),
        (["history", "--limit", "0"], "Invalid value for '--limit'"),
    ],
)
def test_a_wrong_option_is_an_error_of_one_line(arguments: list[str], says: str) -> None:
    assert says in refused(*arguments)


@pytest.mark.parametrize(
    "given",
    [
        ("-g", "a", "--group", "b"),
        ("--group=a", "--group=b"),
        ("--group", "a", "-g", "a"),
        ("-ga", "-gb"),
        ("-ga", "--group", "b"),
        ("-yga", "-yg", "b"),
    ],
)
def test_a_command_for_two_groups_is_refused(given: tuple[str, ...]) -> None:
    assert refused("pause", *given) == "virtpoise: --group: expected once"


def test_explains_why_a_domain_moves_and_why_another_stays(snapshot: Path) -> None:
    moved = virtpoise("explain", "[red]vm1", "--snapshot", str(snapshot)).stdout
    assert moved.startswith("[red]vm1 is to be migrated from h1 to h2.\n")
    (stays,) = json.loads(virtpoise("explain", "u2", "--snapshot", str(snapshot), "--output", "json").stdout)
    assert (stays["name"], stays["kind"], stays["verdict"]) == ("vm2", "domain", "vm2 stays on h1.")
    assert stays["reasons"]
    assert "h2 is a destination in this plan." in virtpoise("explain", "h2", "--snapshot", str(snapshot)).stdout
    assert refused("explain", "vm9", "--snapshot", str(snapshot)).endswith("no domain of the group has this name")


def test_of_a_domain_that_may_be_on_an_unknown_host_that_is_said(snapshot: Path) -> None:
    group = SNAPSHOT | {"hosts": [HOST, HOST | {"name": "h2", "state": "unknown", "cpu_ratio": []}]}
    snapshot.write_text(json.dumps(group))
    said = refused("explain", "vm9", "--snapshot", str(snapshot))
    assert "domains on an unknown host (h2) are not visible, and nothing is migrated to or from there" in said


def test_a_pause_is_kept_and_journalled_with_who_ordered_it(
    tmp_path: Path, closed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUDO_USER", "alice")
    config = ["--config", str(with_store(written(tmp_path, closed)))]
    assert virtpoise("history", "--orders", *config).stdout == "No orders yet.\n"
    assert virtpoise("pause", *config).stdout.startswith("Paused: no migration begins until it is resumed")
    assert virtpoise("pause", *config).stdout == "Paused already, by alice.\n"
    assert virtpoise("mode", "automatic", *config).stdout == "The mode is automatic from the next cycle on.\n"
    assert virtpoise("resume", *config).stdout == "Resumed.\n"
    orders = json.loads(virtpoise("history", "--orders", *config, "--output", "json").stdout)
    assert [order["action"] for order in orders] == ["resume", "mode", "pause", "pause"]
    assert {(order["who"], order["origin"], order["accepted"]) for order in orders} == {("alice", "command", True)}


@pytest.mark.parametrize(
    "command", ["snapshot", "plan", "status", "explain", "history", "doctor", "check-config", "history --orders"]
)
def test_every_command_that_only_reads_answers_people_and_programs(command: str) -> None:
    assert "--output" in virtpoise(*command.split(), "--help").stdout


def test_a_good_configuration_is_confirmed_in_both_forms(tmp_path: Path, closed: str) -> None:
    file = str(written(tmp_path, closed))
    user = getpass.getuser()
    assert (
        virtpoise("check-config", file).stdout
        == f"{file}: good for the user {user} (mode recommend, strategy default).\n"
    )
    told = json.loads(virtpoise("check-config", file, "--output", "json").stdout)
    assert told == {
        "file": file,
        "mode": "recommend",
        "strategy": "default",
        "user": user,
        "unchecked": [],
        "warnings": [],
    }
    Path(file).write_text("")
    warned = virtpoise("check-config", file)
    assert (warned.returncode, warned.stdout) == (
        0,
        f"{file}: good for the user {user} (mode recommend, strategy default).\n",
    )
    assert warned.stderr.startswith(f"virtpoise: {file}: warning: libvirt.pattern: not set, so every target with ")
    Path(file).write_text("mode: auto\ncolour: red\n")
    refused = virtpoise("check-config", file)
    assert refused.returncode == 2
    assert refused.stderr.splitlines() == [
        f"virtpoise: {file}: colour: unknown key",
        f"virtpoise: {file}: mode: expected 'recommend' or 'automatic', got 'auto'",
    ]


def test_no_order_sets_mode_automatic_while_the_configuration_names_no_hosts(tmp_path: Path, closed: str) -> None:
    path = with_store(written(tmp_path, closed))
    path.write_text(path.read_text().replace("libvirt: {pattern: h*}\n", ""))
    refused = virtpoise("mode", "automatic", "--config", str(path))
    assert refused.returncode == 1
    assert refused.stderr.startswith(
        "virtpoise: libvirt.pattern: expected, for mode automatic, patterns of the hosts' names"
    )
    assert virtpoise("mode", "recommend", "--config", str(path)).returncode == 0


def test_a_snapshot_as_a_table_keeps_names_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.show_snapshot(read_snapshot(json.dumps(SNAPSHOT).encode(), "group"))
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["h1", "active", "8", "90.0%", "0.0%", "7.5", "GiB", "2"] in rows
    assert ["[red]vm1", "h1", "running", "1", "2.00", "0.00", "-", "u1"] in rows


def test_a_snapshot_as_a_table_has_no_figure_where_none_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.show_snapshot(
        group(
            host("h1", 0.5),
            host("h2", state=HostState.UNKNOWN),
            domain("a", "h1", 1.0, cpu_delay_cores=None),
            domain("b", "h1", state=DomainState.PAUSED, cpu_delay_cores=None, memory_bytes=0),
        )
    )
    rows = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()}
    assert (rows["h1"][-1], rows["h2"][-1]) == ("2", "-")
    assert rows["a"] == ["h1", "running", "1", "1.00", "unknown", "256", "MiB", "uuid-of-a"]
    assert rows["b"] == ["h1", "paused", "1", "unknown", "unknown", "-", "uuid-of-b"]


def test_the_status_says_of_an_uplink_of_unknown_use_that_it_is_unknown(capsys: pytest.CaptureFixture[str]) -> None:
    usual = {"state": "active", "cpu_ratio": 0.5, "consecutive": 0, "memory_ratio": 0.25, "penalty_seconds": 0.0}
    usual |= {"domains": [], "why_unknown": None, "threshold": 0.8, "needed": 5}
    hosts = [
        {"name": "h1", "rx_ratio": 0.125, "tx_ratio": 0.0, **usual},
        {"name": "h2", "rx_ratio": None, "tx_ratio": 0.0, **usual},
    ]
    found = {"mode": "recommend", "strategy": "default", "leader": True, "threshold": 0.8, "consecutive": 3}
    found |= {"paused": None, "brake": None, "blackout": None, "refused_targets": {"counts": {}}, "sentence": ""}
    terminal.show_status(found | {"hosts": hosts})
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line[:1] == "h"]
    assert [line[-7:-4] for line in lines[1:]] == [["0", "of", "5"]] * 2  # memory or an uplink may need other numbers
    shown = {line[0]: line[-4:] for line in lines}
    assert (shown["h1"], shown["h2"]) == (["25.0%", "12.5%", "-", "0"], ["25.0%", "unknown", "-", "0"])


def test_an_order_that_cannot_be_followed_is_refused_and_journalled(tmp_path: Path, closed: str) -> None:
    config = ["--config", str(with_store(written(tmp_path, closed)))]
    assert "cannot be asked" in refused("drain", "h1", *config)
    (order,) = json.loads(virtpoise("history", "--orders", *config, "--output", "json").stdout)
    assert (order["action"], order["target"], order["accepted"]) == ("drain", "h1", False)


def test_apply_needs_a_balancer_that_runs(tmp_path: Path, closed: str) -> None:
    said = refused("apply", "--yes", "--config", str(written(tmp_path, closed, listen=closed)))
    assert said.startswith(f"virtpoise: no balancer answers at {closed}")


MOVES: list[dict[str, object]] = [
    {
        "domain": name,
        "uuid": name,
        "source": "h1",
        "destination": "h2",
        "predicted": {"source": LOAD, "destination": LOAD},
    }
    for name in ("vm1", "vm2", "vm3")
]


@pytest.fixture
def balancer(httpserver: HTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The command line's options for a balancer with a plan and a token of alice's; called by robert, who has none."""
    monkeypatch.setenv("SUDO_USER", "robert")
    plan = {"format": "virtpoise/plan/1", "strategy": "default", "solved": True, "summary": "", "moves": MOVES}
    httpserver.expect_request("/api/v1/plan").respond_with_json({"at": 1.0, "plan": plan})
    tokens = tmp_path / "tokens"
    tokens.write_text("alice:a-token-of-alice-1234567890\n")
    tokens.chmod(0o600)
    file = tmp_path / "virtpoise.yml"
    file.write_text(
        f"web: {{listen_address: '{httpserver.host}:{httpserver.port}', token_file: '{tokens}', token_over_http: true}}\n"
    )
    return ["--yes", "--config", str(file)]


def record(number: int, move: dict[str, object], result: str | None, why: str = "") -> dict[str, object]:
    ended = {"id": number, "result": result, "why": why, "seconds": 12.0, "downtime_seconds": 0.05}
    return {name: move[name] for name in ("uuid", "destination")} | ended


def test_apply_takes_nobody_elses_token_except_for_root_who_is_named(
    httpserver: HTTPServer, balancer: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    httpserver.expect_request("/api/v1/history").respond_with_json([])
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert virtpoise("apply", *balancer).stderr.endswith(
        "tokens: no token in plain text for robert; see web.socket for commands without a token\n"
    )
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    httpserver.expect_request(
        "/api/v1/plan/apply",
        headers={"Authorization": "Bearer a-token-of-alice-1234567890", "Virtpoise-User": "robert"},
    ).respond_with_json({"answer": "Begun: some."})
    done = virtpoise("apply", *balancer)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "Begun: some.")


@pytest.mark.parametrize(
    ("ends", "code"),
    [
        ([("done", ""), ("failed", "no route to h2"), ("skipped", "the plan ended")], 1),
        ([("done", "")] * 3, 0),
    ],
)
def test_apply_waits_for_its_own_moves_and_prints_how_each_ended(
    httpserver: HTTPServer,
    balancer: list[str],
    monkeypatch: pytest.MonkeyPatch,
    ends: list[tuple[str, str]],
    code: int,
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    earlier = [record(7, MOVES[1], "done")]
    under_way = [record(8 + n, move, None) for n, move in enumerate(MOVES)]
    ended = [record(8 + n, move, *end) for n, (move, end) in enumerate(zip(MOVES, ends, strict=True))]
    later = [record(11, MOVES[0], "failed", "of another plan")]
    answers = iter([earlier, under_way[::-1] + earlier, later + ended[::-1] + earlier])
    httpserver.expect_request("/api/v1/history").respond_with_handler(
        lambda _request: Response(json.dumps(next(answers)), content_type="application/json")
    )
    httpserver.expect_request("/api/v1/plan/apply").respond_with_json({"answer": "Begun: some."})
    httpserver.expect_request("/api/v1/status").respond_with_json({"in_flight": []})
    done = virtpoise("apply", "--wait", *balancer)
    assert done.returncode == code
    told = [" ".join(line.split()) for line in done.stdout.partition("Begun: some.")[2].splitlines()]
    assert told[2:] == [
        f"{move['domain']} h1 h2 {f'{result}: {why}' if why else result} 12 s 50 ms"
        for move, (result, why) in zip(MOVES, ends, strict=True)
    ]


def test_completes_in_the_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {"_VIRTPOISE_COMPLETE": "complete_bash", "COMP_WORDS": "virtpoise dr", "COMP_CWORD": "1"}
    done = subprocess.run(
        [str(Path(sys.executable).with_name("virtpoise"))],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.strip() == "drain"


def test_a_token_file_that_cannot_be_used_is_reported_when_the_balancer_starts(tmp_path: Path, closed: str) -> None:
    config, tokens = written(tmp_path, closed), tmp_path / "tokens"
    config.write_text(config.read_text() + "web: {token_file: '" + str(tokens) + "'}\n")
    config.write_text(config.read_text().replace("web: {listen_address: '127.0.0.1:0'}\n", ""))
    assert "cannot be read: No such file or directory" in refused("run", "--config", str(config))
    tokens.write_text("alice:short\n")
    tokens.chmod(0o600)
    assert "or NAME:TOKEN with a token of at least 20 characters" in refused("run", "--config", str(config))
