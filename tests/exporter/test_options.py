"""Wrong flags: one line that names the flag and says what was expected, exit status 2."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from virtpoise_exporter import __version__, cli
from virtpoise_exporter.collectors import TOPICS
from virtpoise_exporter.errors import UsageError
from virtpoise_exporter.options import EXAMPLES, parse_options


def test_the_defaults_are_a_promise() -> None:
    options = parse_options([])
    assert options.addresses == (("127.0.0.1", 9807),)
    assert options.uri == "qemu:///system"
    assert (str(options.procfs), str(options.sysfs)) == ("/proc", "/sys")
    assert str(options.state) == "/var/lib/virtpoise-exporter"
    assert options.web_config is None
    assert options.cpu_speed is None
    assert options.speeds == {}
    assert (options.log_level, options.log_format) == ("info", "logfmt")


def test_the_version_is_the_packages() -> None:
    from importlib.metadata import version

    assert __version__ == version("virtpoise")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (":9807", ("", 9807)),
        ("10.0.0.1:80", ("10.0.0.1", 80)),
        ("[::1]:9807", ("::1", 9807)),
        ("localhost:0", ("localhost", 0)),
    ],
)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    assert parse_options(["--web.listen-address", text]).addresses == (address,)


def test_several_addresses() -> None:
    flags = ["--web.listen-address", ":1", "--web.listen-address=[::1]:2"]
    assert parse_options(flags).addresses == (("", 1), ("::1", 2))


def test_a_host_with_node_exporter_leaves_out_all_of_the_host() -> None:
    left = parse_options(["--no-collector.host"]).collectors
    assert left == ("libvirt", "domains", "block", "balloon") == tuple(t.name for t in TOPICS if not t.host)


def test_one_collector_is_left_out() -> None:
    assert "block" not in parse_options(["--no-collector.block"]).collectors


def test_a_speed_is_given_in_megabits() -> None:
    assert parse_options(["--network.speed", "eth0=10000"]).speeds == {"eth0": 1.25e9}


@pytest.mark.parametrize(
    "flags",
    [
        ["--nonsense"],
        ["--web.listen", ":1"],  # no abbreviations: they break when a flag is added
        ["--web.listen-address", "9807"],
        ["--web.listen-address", "host:http"],
        ["--web.listen-address", "host:70000"],
        ["--web.listen-address", "::1:9807"],
        ["--path.procfs", "/nonexistent"],
        ["--path.sysfs", "/proc"],
        ["--path.procfs", "x" * 300],
        ["--path.sysfs", "x" * 5000],
        ["--libvirt.uri", "nonsense"],
        ["--libvirt.uri", ""],
        ["--network.speed", "eth0"],
        ["--network.speed", "eth0=fast"],
        ["--network.speed", "eth0=0"],
        ["--cpu.speed", "nan"],
        ["--cpu.speed", "-1"],
        ["--log.level", "loud"],
        ["--web.config.file", ""],
        ["--web.config.file", "a", "--web.config.file=b"],
        ["--log.level", "info", "--log.level", "info"],
        ["--network.speed", "eth0=1", "--network.speed", "eth0=2"],
    ],
)
def test_a_wrong_flag_is_named(flags: list[str]) -> None:
    with pytest.raises(UsageError) as raised:
        parse_options(flags)
    assert flags[0] in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_folder_that_may_not_be_entered_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.stat", refuse)  # root, as whom tests may run, may enter all folders
    with pytest.raises(UsageError, match=r"^--path\.procfs '/root': .*: Permission denied$"):
        parse_options(["--path.procfs", "/root"])


def run(*flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "virtpoise_exporter", "--libvirt.uri=test:///default", *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_a_port_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = run("--web.listen-address", f"127.0.0.1:{port}", "--log.level=error")
    assert ended.returncode == 2
    assert ended.stderr == f"virtpoise-exporter: --web.listen-address 127.0.0.1:{port}: Address already in use\n"


def test_a_name_that_cannot_be_one() -> None:
    ended = run("--web.listen-address", f"{'x' * 64}:9807", "--log.level=error")
    assert ended.returncode == 2
    assert ended.stderr == (
        f"virtpoise-exporter: --web.listen-address {'x' * 64}:9807: expected a host's name or address\n"
    )


def test_an_interrupt_before_it_serves(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(_arguments: list[str]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "parse_options", interrupt)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 130
    assert capsys.readouterr().err == ""


def test_an_unreadable_web_configuration(tmp_path: Path) -> None:
    ended = run("--web.config.file", str(tmp_path / "web.yml"))
    assert ended.returncode == 2
    assert ended.stderr == f"virtpoise-exporter: --web.config.file {tmp_path}/web.yml: No such file or directory\n"


def test_a_wrong_flag_on_the_command_line() -> None:
    ended = run("--nonsense")
    assert ended.returncode == 2
    assert ended.stderr == "virtpoise-exporter: unrecognized arguments: --nonsense (see --help)\n"
    assert ended.stdout == ""


def test_help_shows_examples_that_are_accepted(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_options(["--help"])
    shown = capsys.readouterr().out
    for example in EXAMPLES:
        assert example in shown
        parse_options(example.split()[1:])
