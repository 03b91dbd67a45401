"""The command line as its user meets it: each mistake one line and exit status 2, each answer in both forms."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from pytest_httpserver import HTTPServer

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


def virtpoise(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "virtpoise_balancer", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


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
            json.dumps(changed(hosts=[HOST | {"memory_bytes": -1}])),
            "hosts.0.memory_bytes: expected greater than 0, got -1",
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
def nobody() -> str:
    """An address where nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def written(tmp_path: Path, prometheus: str, listen: str = "127.0.0.1:0") -> Path:
    path = tmp_path / "virtpoise.yml"
    path.write_text(
        f"prometheus: {{url: 'http://{prometheus}', timeout_seconds: 0.5}}\n"
        f"state: {{url: 'sqlite:///{tmp_path}/state.db'}}\n"
        f"web: {{listen_address: '{listen}'}}\n"
    )
    return path


@pytest.mark.parametrize("command", ["run", "snapshot", "plan"])
def test_no_prometheus_is_told(tmp_path: Path, nobody: str, command: str) -> None:
    said = refused(command, "--config", str(written(tmp_path, nobody)))
    assert f"Prometheus at http://{nobody} cannot be asked: " in said
    assert "refused" in said


@pytest.mark.parametrize("command", ["run", "snapshot", "plan"])
def test_a_prometheus_that_answers_html_is_told(tmp_path: Path, httpserver: HTTPServer, command: str) -> None:
    httpserver.expect_request("/api/v1/query").respond_with_data("<html>sign in</html>", content_type="text/html")
    address = f"{httpserver.host}:{httpserver.port}"
    said = refused(command, "--config", str(written(tmp_path, address)))
    assert f"http://{address} does not answer as Prometheus does (200, text/html): expected JSON" in said


def test_no_balancer_is_told(tmp_path: Path, nobody: str) -> None:
    said = refused("status", "--config", str(written(tmp_path, nobody, listen=nobody)))
    assert said.startswith(f"virtpoise: no balancer answers at {nobody}")


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    assert refused("run", "--config", f"{tmp_path}/none.yml").endswith(
        "none.yml: cannot be read: No such file or directory"
    )


def test_history_of_a_new_store_is_empty(tmp_path: Path, nobody: str) -> None:
    config = str(written(tmp_path, nobody))
    assert virtpoise("history", "--config", config).stdout == "No domain has been migrated yet.\n"
    assert json.loads(virtpoise("history", "--config", config, "--output", "json").stdout) == []
