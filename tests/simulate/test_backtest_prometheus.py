"""`virtpoise backtest` on the history of a real Prometheus."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from filled_prometheus import BIN, filled_prometheus
from virtpoise_balancer.command.main import main
from virtpoise_balancer.monitor.history import History, Part, PastGroup
from virtpoise_balancer.simulate.recording import RecordingFile

pytestmark = pytest.mark.skipif(not (BIN / "promtool").exists(), reason="scripts/setup has not fetched Prometheus")

GIB = 2**30
STEP = 30
HOURS = 4
GAP = (90 * 60, 100 * 60)  # no exporter is scraped in these seconds
HOSTS = ("h1", "h2", "h3")
BUSY = ("vm1", "vm2", "vm3", "vm4")  # on h1, which is overloaded for the second half


def cores(domain: str, at: int) -> float:
    return 0.95 if domain in BUSY and at >= HOURS * 1800 else 0.4


@dataclass
class Place:
    """``vm6`` is migrated by a person after an hour. ``vm9`` stops after three."""

    @staticmethod
    def of(domain: str, at: int) -> str | None:
        number = int(domain[2:])
        if domain == "vm6" and at >= 3600:
            return "h3"
        if domain == "vm9" and at >= 3 * 3600:
            return None
        return HOSTS[0] if domain in BUSY else HOSTS[1 + number % 2]


DOMAINS = tuple(f"vm{number}" for number in range(1, 10))


def _in_order(line: str) -> tuple[str, float]:
    """Series by series, and in each the oldest sample first."""
    return line.rsplit("}", 1)[0], float(line.split()[-1])


def exposition(start: float) -> str:
    """What the exporters of three hosts with four CPUs each would have shown."""
    families: dict[str, list[str]] = {}

    def put(family: str, kind: str, labels: str, value: float, at: int) -> None:
        name = family if kind == "gauge" else f"{family}_total"
        families.setdefault(f"{family} {kind}", []).append(f"{name}{{{labels}}} {value:.4f} {start + at:.0f}")

    ran = dict.fromkeys(DOMAINS, 0.0)
    waited = dict.fromkeys(DOMAINS, 0.0)
    idle, busy = dict.fromkeys(HOSTS, 0.0), dict.fromkeys(HOSTS, 0.0)
    for at in range(0, HOURS * 3600, STEP):
        for host in HOSTS:
            there = [one for one in DOMAINS if Place.of(one, at) == host]
            used = min(sum(cores(one, at) for one in there) + 0.1, 4.0)
            busy[host] += used * STEP
            idle[host] += (4 - used) * STEP
            for one in there:
                ran[one] += cores(one, at) * STEP
                waited[one] += (0.1 if used > 3.5 else 0.0) * STEP
            if GAP[0] <= at < GAP[1]:
                continue
            labels = f'instance="{host}:9807",job="virtpoise-exporter"'
            put("virtpoise_host_cpu_seconds", "counter", f'{labels},mode="idle"', idle[host], at)
            put("virtpoise_host_cpu_seconds", "counter", f'{labels},mode="user"', busy[host], at)
            put("virtpoise_host_cpus", "gauge", labels, 4, at)
            put("virtpoise_host_memory_total_bytes", "gauge", labels, 64 * GIB, at)
            put("virtpoise_host_memory_available_bytes", "gauge", labels, (60 - 4 * len(there)) * GIB, at)
            put("virtpoise_host_network_speed_bytes", "gauge", f'{labels},device="eth0"', 1.25e9, at)
            put("virtpoise_libvirt_up", "gauge", labels, 1, at)
            for one in there:
                of = f'{labels},domain="{one}",uuid="uuid-of-{one}"'
                put("virtpoise_domain_running", "gauge", of, 1, at)
                put("virtpoise_domain_vcpus", "gauge", of, 2, at)
                put("virtpoise_domain_memory_bytes", "gauge", of, 4 * GIB, at)
                put("virtpoise_domain_cpu_seconds", "counter", of, ran[one], at)
                put("virtpoise_domain_cpu_delay_seconds", "counter", of, waited[one], at)
    lines = []
    for family, samples in families.items():
        lines += [f"# TYPE {family}", *sorted(samples, key=_in_order)]
    return "\n".join([*lines, "# EOF", ""])


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A configuration whose Prometheus holds four hours that ended three hours ago."""
    folder = tmp_path_factory.mktemp("history")
    start = (time.time() - (HOURS + 3) * 3600) // 60 * 60
    with filled_prometheus(exposition(start), folder) as url:
        file = folder / "virtpoise.yml"
        file.write_text(f"prometheus: {{url: '{url}', scrape_interval_seconds: 30}}\ninterval_seconds: 30\n")
        yield file


# What node_exporter and Debian's libvirt exporter call what ours reports.
OTHERS = {
    "virtpoise_host_memory_total_bytes": "node_memory_MemTotal_bytes",
    "virtpoise_host_memory_available_bytes": "node_memory_MemAvailable_bytes",
    "virtpoise_host_network_speed_bytes": "node_network_speed_bytes",
    "virtpoise_libvirt_up": "libvirt_up",
    "virtpoise_domain_running": "libvirt_domain_state_code",
    "virtpoise_domain_vcpus": "libvirt_domain_info_virtual_cpus",
    "virtpoise_domain_memory_bytes": "libvirt_domain_info_memory_usage_bytes",
    "virtpoise_domain_cpu_seconds": "libvirt_domain_info_cpu_time_seconds",
}


def as_others(exposition: str) -> str:
    """The same history as other exporters would have shown it. A host's CPUs are series of their own there."""
    cpus, rest = [], []
    keeping = False
    for line in exposition.splitlines():
        name = line.removeprefix("# TYPE ").split("{")[0].split(" ")[0].removesuffix("_total")
        if line.startswith("# TYPE"):
            keeping = name in OTHERS
        if name == "virtpoise_host_cpu_seconds" and not line.startswith("#"):
            labels, value, at = line.replace("9807", "9100").replace("virtpoise-exporter", "node").rsplit(" ", 2)
            for cpu in range(4):
                named = labels.replace("virtpoise_host_cpu_seconds", "node_cpu_seconds").replace("}", f',cpu="{cpu}"}}')
                cpus.append(f"{named} {float(value) / 4:.4f} {at}")
        elif keeping:
            new = OTHERS[name]
            port, job = ("9100", "node") if new.startswith("node") else ("9177", "libvirt")
            rest.append(line.replace(name, new).replace("9807", port).replace("virtpoise-exporter", job))
    return "\n".join([*rest, "# TYPE node_cpu_seconds counter", *sorted(cpus, key=_in_order), "# EOF", ""])


def played(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, object]:
    assert main(["backtest", *arguments, "--output", "json"]) == 0
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


def test_the_past_is_played_without_and_with_a_balancer(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = played(capsys, "--config", str(config), "--since", "8h")
    assert (found["hosts"], found["domains"]) == (3, 9)
    courses = found["courses"]
    assert isinstance(courses, dict)
    without, balanced = courses["without"], courses["with virtpoise"]
    # h1 is at 98 % for two hours; the first samples are mixed
    assert without["lower"]["overload_by_resource"] == {"cpu": pytest.approx(120, abs=3)}
    assert balanced["lower"]["overload_host_minutes"] < 10
    assert balanced["lower"]["moves"] >= 1
    assert balanced["lower"]["failed_cycles"] == 0
    assert found["bracketed"]
    assert without["upper"]["waited_core_hours"] >= without["lower"]["waited_core_hours"]
    gaps = found["gaps"]
    assert isinstance(gaps, list)
    inner = [end - start for start, end in gaps if end - start < 3600]
    assert inner == [pytest.approx(600, abs=121)]


def test_the_history_of_other_exporters_will_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start = (time.time() - (HOURS + 3) * 3600) // 60 * 60
    with filled_prometheus(as_others(exposition(start)), tmp_path) as url:
        file = tmp_path / "virtpoise.yml"
        file.write_text(
            f"prometheus: {{url: '{url}', source: debian, scrape_interval_seconds: 30}}\ninterval_seconds: 30\n"
        )
        found = played(capsys, "--config", str(file), "--since", "8h")
    assert (found["hosts"], found["domains"]) == (3, 9)
    courses = found["courses"]
    assert isinstance(courses, dict)
    assert courses["without"]["lower"]["overload_by_resource"] == {"cpu": pytest.approx(120, abs=3)}
    assert courses["with virtpoise"]["lower"]["overload_host_minutes"] < 10
    assert not found["bracketed"]  # this exporter does not report how long vCPUs waited
    assert found["hidden_core_hours"] is None


def test_a_second_configuration_is_played_beside_the_first(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "never.yml"
    other.write_text(f"{config.read_text()}policy: {{cpu: {{threshold: 1.0}}, memory: {{threshold: 1.0}}}}\n")
    report = tmp_path / "report.html"
    arguments = ["--config", str(config), "--against", str(other), "--since", "8h", "--report", str(report)]
    courses = played(capsys, *arguments)["courses"]
    assert isinstance(courses, dict)
    assert [*courses] == ["without", "with virtpoise.yml", "with never.yml"]
    assert courses["with never.yml"]["lower"]["moves"] == 0
    page = report.read_text()
    assert "<svg" in page
    assert "with never.yml" in page
    assert "src=" not in page
    assert "http" not in page


def test_the_time_before_and_after_the_history_is_not_played(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = played(capsys, "--config", str(config), "--since", "30d")
    start, end = found["start"], found["end"]
    assert isinstance(start, float)
    assert isinstance(end, float)
    assert HOURS * 3600 <= end - start <= (HOURS + 2) * 3600


def test_other_thresholds_are_played_and_judged_by_that_of_the_policy(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    courses = played(capsys, "--config", str(config), "--since", "8h", "--threshold", "1", "--threshold", "0.5")[
        "courses"
    ]
    assert isinstance(courses, dict)
    assert [*courses] == ["without", "with virtpoise", "at 1", "at 0.5"]
    assert courses["at 1"]["lower"]["moves"] == 0
    assert courses["at 1"]["lower"]["overload_host_minutes"] == courses["without"]["lower"]["overload_host_minutes"]
    assert courses["at 0.5"]["lower"]["moves"] >= 1


def test_a_recording_has_no_names_and_comes_to_the_same(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "group.recording"
    live = played(capsys, "--config", str(config), "--since", "8h", "--record", str(file))
    again = played(capsys, str(file), "--config", str(config))
    for name in ("courses", "gaps", "hosts", "domains", "worst_hours"):
        assert again[name] == live[name]
    assert b"vm1" not in file.read_bytes()
    assert [one.name for one in RecordingFile(file).inventory().hosts] == ["host1", "host2", "host3"]


def test_an_interrupted_recording_is_gone_on_with(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "group.recording"
    monkeypatch.setattr("virtpoise_balancer.monitor.history._MOST_STEPS", 100)
    inventory, hours = History.inventory, list[tuple[float, float]]()

    def of_the_same_hours(history: History, start: float, end: float, look: Callable[[float], None]) -> PastGroup:
        """A busy machine may take more than a step between the two recordings."""
        hours.append((start, end))
        return inventory(history, *hours[0], look)

    monkeypatch.setattr(History, "inventory", of_the_same_hours)
    whole = played(capsys, "--config", str(config), "--since", "8h", "--record", str(tmp_path / "whole"))
    append = RecordingFile.append

    def interrupted(recording: RecordingFile, part: Part) -> Part:
        if len([*recording.parts()]) == 2:
            raise KeyboardInterrupt
        return append(recording, part)

    with monkeypatch.context() as patched:
        patched.setattr(RecordingFile, "append", interrupted)
        assert main(["backtest", "--config", str(config), "--since", "8h", "--record", str(file)]) == 130
    assert sum(len(part) for part in RecordingFile(file).parts()) == 200
    capsys.readouterr()
    found = played(capsys, "--config", str(config), "--record", str(file))
    assert found["courses"] == whole["courses"]


def test_what_is_missing_is_named(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["backtest", "--config", str(config), "--since", "1h"]) == 2
    error = capsys.readouterr().err
    assert "has no series for host_cpus, host_memory_bytes, domain_vcpus, domain_memory_bytes, domain_running" in error
    assert main(["backtest", "--config", str(config), "--since", "3x"]) == 2
    assert "--since: expected a time such as 12h, 30d or 4w" in capsys.readouterr().err
    assert main(["backtest", "--config", str(config), "--step-seconds", "10"]) == 2
    assert "--step-seconds: expected at least the scrape interval (30), got 10" in capsys.readouterr().err
    nothing = tmp_path / "nothing"
    nothing.write_bytes(b"PK nothing")
    assert main(["backtest", str(nothing)]) == 2
    assert "expected a recording (virtpoise/recording/1)" in capsys.readouterr().err


def test_the_table_says_what_the_figures_mean(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["backtest", "--config", str(config), "--since", "8h"]) == 0
    out = capsys.readouterr().out
    assert "host-minutes at or over a threshold" in out
    assert "worst hour without" in out
    assert "No host has figures for" in out
    assert "figures have two ends" in " ".join(out.split())
