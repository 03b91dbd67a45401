"""One balancer for several groups: it looks at each by itself, plans by itself, and none waits for another."""

from __future__ import annotations

import io
import json
import os
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from builders import SAMPLE_TIMES, domain, group, host
from virtpoise_balancer.analyse.habits import Readings
from virtpoise_balancer.analyse.membership import Machine, same_machines
from virtpoise_balancer.command.main import main
from virtpoise_balancer.config import Config, read_config
from virtpoise_balancer.control.orders import By
from virtpoise_balancer.errors import MonitorError
from virtpoise_balancer.execute import executor, migrate
from virtpoise_balancer.execute.executor import InFlight, Recheck
from virtpoise_balancer.execute.facts import HostFacts
from virtpoise_balancer.execute.incompatible import HostRecord
from virtpoise_balancer.model import Entries, Move, SampleTimes, Snapshot, UnknownKind
from virtpoise_balancer.monitor.observe import HostWindow, MeasuredLoads, Observation
from virtpoise_balancer.service import wiring
from virtpoise_balancer.service.daemon import Daemon

PATIENCE_SECONDS = 60.0
ALICE = By("alice", "command")


def overloaded(first: str, second: str, name: str) -> Snapshot:
    return group(host(first, 0.9, 0.9, 0.9), host(second, 0.1, 0.1, 0.1), domain(name, first, 1.0))


def free() -> threading.Event:
    event = threading.Event()
    event.set()
    return event


@dataclass
class OneGroup:
    """In the place of Prometheus, of the migrator and of the executor of one group."""

    seen: Snapshot
    failure: str | None = None
    sample_times: SampleTimes = SAMPLE_TIMES
    acts: bool = True
    busy: bool = False
    in_flight: tuple[InFlight, ...] = ()
    migrator: object = None
    limits: object = None
    moves: list[Move] = field(default_factory=list)
    held: threading.Event = field(default_factory=free)

    def observe(self, now: float) -> Observation:
        self.held.wait()
        if self.failure:
            raise MonitorError(self.failure)
        return Observation(snapshot=replace(self.seen, time=now), age_seconds=1.0)

    def past(self, _seen: Snapshot, _since: float) -> Iterator[tuple[float, Readings]]:
        return iter(())

    def observe_hosts(self, hosts: Collection[str], now: float) -> Observation:
        return self.observe(now)

    def members(self, now: float) -> frozenset[str]:
        if self.failure:
            raise MonitorError(self.failure)
        return frozenset(one.name for one in self.seen.hosts)

    def loads(self, windows: Collection[HostWindow]) -> MeasuredLoads:
        return MeasuredLoads({})

    def active_domains(self, host: str) -> int:
        return 1

    def carry_out(self, entries: Entries, recheck: Recheck) -> None:
        self.moves += [move for _, move in entries]

    def go_on(self) -> None: ...

    def drop(self, why: str) -> None: ...

    def close(self, *, leads: bool = True) -> None: ...


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> dict[str, OneGroup]:
    made = {"blue": OneGroup(overloaded("b1", "b2", "bv")), "red": OneGroup(overloaded("r1", "r2", "rv"))}
    monkeypatch.setattr(wiring, "make_observer", lambda config: made[config.group])
    monkeypatch.setattr(wiring, "make_hosts", lambda config, *_: made[config.group])
    monkeypatch.setattr(wiring, "make_migrator", lambda config, *_: made[config.group])
    monkeypatch.setattr(wiring, "make_executor", lambda config, *_: made[config.group])
    return made


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "virtpoise.yml"
    path.write_text(
        json.dumps(
            {
                "mode": "automatic",
                "libvirt": {"pattern": "*"},
                "interval_seconds": 0.1,
                "state": {"url": f"sqlite:///{tmp_path}/state.db"},
                "web": {"listen_address": "127.0.0.1:0", "socket": f"{tmp_path}/socket"},
                "groups": {"blue": {"matchers": 'cluster="blue"'}, "red": {"matchers": 'cluster="red"'}},
            }
        )
    )
    return path


class Served:
    """A balancer that runs while the test asks it."""

    def __init__(self, path: Path) -> None:
        self.daemon = Daemon(path)

    def while_it_runs(self, act: Callable[[], object]) -> None:
        def and_stop() -> None:
            try:
                self.until(lambda: hasattr(self.daemon, "_web"))
                act()
            finally:
                self.daemon.stop()

        with ThreadPoolExecutor(1) as pool:
            acted = pool.submit(and_stop)
            self.daemon.run()
        acted.result()

    def until(self, there: Callable[[], object]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not there():
            assert time.monotonic() < deadline
            threading.Event().wait(0.02)

    def sentence(self, name: str) -> str:
        (found,) = (one for one in self.daemon._groups if one.name == name)
        return found.published.state.sentence

    def why_unknown(self, group: str, name: str) -> str:
        seen = next(one for one in self.daemon._groups if one.name == group).published.state.observation
        found = seen.snapshot.host(name) if seen else None
        return found.unknown.text if found and found.unknown else ""

    def cycle(self, name: str) -> None:
        """Wait for a whole cycle of the group from now on."""
        (found,) = (one for one in self.daemon._groups if one.name == name)
        states = {id(found.published.state): found.published.state}

        def further() -> bool:
            states[id(found.published.state)] = found.published.state
            return len(states) > 2

        self.until(further)

    def get(self, path: str) -> Any:
        address = f"http://127.0.0.1:{self.daemon._web.port}{path}"
        with urllib.request.urlopen(address, timeout=PATIENCE_SECONDS) as answer:
            text = answer.read().decode()
        return json.loads(text) if "api" in path or "/sd/" in path else text

    def refused(self, path: str, body: bytes | None = None) -> tuple[int, str]:
        """The status and the error of a read, or of an order if there is a body."""
        address = f"http://127.0.0.1:{self.daemon._web.port}{path}"
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(address, body, timeout=PATIENCE_SECONDS)
        with closing(error.value) as answer:
            return answer.code, json.loads(answer.read())["error"]


def test_each_group_is_planned_and_carried_out_by_itself(groups: dict[str, OneGroup], path: Path) -> None:
    served = Served(path)

    def act() -> None:
        served.until(lambda: all(one.moves for one in groups.values()))
        assert {(move.domain, move.destination) for move in groups["blue"].moves} == {("bv", "b2")}
        assert {(move.domain, move.destination) for move in groups["red"].moves} == {("rv", "r2")}

    served.while_it_runs(act)


def machine(uuid: str, *domains: str) -> Machine:
    return Machine(uuid=uuid, domains=frozenset(domains))


@pytest.mark.parametrize(
    ("here", "there", "same"),
    [
        (machine("m", "a", "b"), machine("m", "b"), True),
        (machine("m"), machine("m", "b"), True),
        (machine("m", "a"), machine("m", "b"), False),
        (machine("m", "a"), machine("n", "a"), False),
    ],
    ids=["same", "looked-at-before", "two-boards-with-one-uuid", "another"],
)
def test_one_machine_under_two_names_is_left_alone_in_both_groups(here: Machine, there: Machine, same: bool) -> None:
    """Its name in the other group is given; two boards with one uuid are two machines."""
    machines = {"blue": {"kvm1": here, "kvm2": machine("x")}, "red": {"kvm1.lan": there}}
    why = "it is kvm1.lan of group red under another name: both have the uuid m"
    assert same_machines(machines, "blue") == ({"kvm1": why} if same else {})
    assert bool(same_machines(machines, "red")) is same


def test_what_libvirt_says_of_hosts_shows_one_that_is_in_two_groups(groups: dict[str, OneGroup], path: Path) -> None:
    served = Served(path)

    def act() -> None:
        blue, red = served.daemon._groups
        both = HostFacts(libvirt_version=9, hypervisor_version=7, cpu=None, devices=None, uuid="m")
        for one, name in ((blue, "b1"), (red, "r2")):
            one._inventory._records = {name: HostRecord(at=0.0, facts=both)}
        served.until(lambda: "r2 of group red" in served.why_unknown("blue", "b1"))
        served.until(lambda: "b1 of group blue" in served.why_unknown("red", "r2"))

    served.while_it_runs(act)


def test_a_look_that_hangs_holds_no_other_group_up(groups: dict[str, OneGroup], path: Path) -> None:
    """Nor do those of all but one group: their looks end in whatever order."""
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "interval_seconds": 86400}))  # the test alone has it take a turn
    served = Served(path)

    def act() -> None:
        served.daemon._turn()  # it leads from then on
        blue, red = (one.published for one in served.daemon._groups)
        ended = blue.cycle_ended, red.cycle_ended
        groups["blue"].held.clear()
        with ThreadPoolExecutor(1) as pool:
            try:
                turn = pool.submit(served.daemon._turn)
                served.until(lambda: red.cycle_ended != ended[1])
                assert blue.cycle_ended == ended[0]
            finally:
                groups["blue"].held.set()
            turn.result()
        assert blue.cycle_ended != ended[0]

    served.while_it_runs(act)


def test_a_group_that_cannot_be_looked_at_leaves_the_others_going(groups: dict[str, OneGroup], path: Path) -> None:
    groups["blue"].failure = "Prometheus refuses the query: invalid parameter"
    served = Served(path)

    def act() -> None:
        served.until(lambda: groups["red"].moves)
        served.cycle("blue")
        assert served.sentence("blue") == "nothing is done: Prometheus refuses the query: invalid parameter"
        assert not groups["blue"].moves

    served.while_it_runs(act)


def test_no_group_acts_on_a_host_that_is_in_two(groups: dict[str, OneGroup], path: Path) -> None:
    both = host("both", 0.1, 0.1, 0.1)
    for name, one in groups.items():
        first = one.seen.hosts[0].name
        one.seen = group(host(first, 0.9, 0.9, 0.9), both, domain(f"{name}-vm", first, 1.0))
    served = Served(path)

    def act() -> None:
        for one in served.daemon._groups:
            served.cycle(one.name)
            snapshot = one.published.state.snapshot
            assert snapshot is not None
            found = snapshot.host("both")
            assert found is not None
            assert found.why_unknown is not None
            assert found.why_unknown.kind is UnknownKind.GROUPS
            assert found.why_unknown.text.startswith("it is in the groups blue and red at once")
            assert "unknown: both" in one.published.state.sentence
        assert not any(one.moves for one in groups.values())
        groups["red"].seen = overloaded("r1", "r2", "rv")
        served.until(lambda: groups["blue"].moves)
        assert groups["blue"].moves[0].destination == "both"

    served.while_it_runs(act)


def test_orders_are_of_one_group(groups: dict[str, OneGroup], path: Path) -> None:
    for one in groups.values():
        one.seen = group(host(one.seen.hosts[0].name, 0.5), host(one.seen.hosts[1].name, 0.1), *one.seen.domains)
    served = Served(path)

    def act() -> None:
        served.cycle("red")
        blue, red = (one.context.orders for one in served.daemon._groups)
        blue.pause(ALICE)
        red.drain("r1", ALICE)
        served.until(lambda: groups["red"].moves)
        served.cycle("blue")
        assert "paused by alice" in served.sentence("blue")
        assert "paused" not in served.sentence("red")
        assert not groups["blue"].moves
        drained = {one.name: dict(one.published.state.drains) for one in served.daemon._groups}
        assert (drained["blue"], list(drained["red"])) == ({}, ["r1"])

    served.while_it_runs(act)


def test_a_blackout_window_is_of_one_group(groups: dict[str, OneGroup], path: Path) -> None:
    """The list of a group replaces the common one. The page, the API and the metrics show each group its own."""
    configured = json.loads(path.read_text())

    def always(name: str) -> dict[str, object]:
        return {"windows": [{"name": name, "cron": "* * * * *", "duration_seconds": 86400}]}

    configured["policy"] = always("everywhere")
    configured["groups"]["red"]["policy"] = {"windows": []}
    configured["groups"]["blue"]["policy"] = always("backup")
    path.write_text(json.dumps(configured))
    served = Served(path)

    def act() -> None:
        served.until(lambda: groups["red"].moves)
        for name in groups:
            served.cycle(name)
        assert not groups["blue"].moves
        assert "(window backup)" in served.sentence("blue")
        assert "window" not in served.sentence("red")
        shown = {name: served.get(f"/api/v1/status?group={name}")["blackout"] for name in groups}
        assert (shown["blue"]["windows"], shown["red"]) == (["backup"], None)
        pages = {name: ">No migration begins until" in served.get(f"/?group={name}") for name in groups}
        assert pages == {"blue": True, "red": False}
        families = {one.name: one for one in text_string_to_metric_families(served.get("/metrics"))}
        windows = [(one.labels, one.value) for one in families["virtpoise_blackout"].samples]
        assert windows == [({"group": "blue", "window": "backup"}, 1.0)]

    served.while_it_runs(act)


def test_the_api_the_page_and_the_metrics_know_the_group(groups: dict[str, OneGroup], path: Path) -> None:
    path.write_text(
        path.read_text().replace('"automatic"', '"recommend"')
    )  # moves would make hosts unknown for a while
    served = Served(path)

    def act() -> None:
        served.cycle("red")
        short = served.get("/api/v1/groups")
        assert [(one["name"], one["mode"], one["hosts"]) for one in short] == [
            ("blue", "recommend", 2),
            ("red", "recommend", 2),
        ]
        hosts = [[one["name"] for one in served.get(f"/api/v1/hosts?group={name}")] for name in groups]
        assert hosts == [["b1", "b2"], ["r1", "r2"]]
        assert served.get("/api/v1/hosts/r2")["status"]["name"] == "r2"
        assert served.get("/api/v1/explain/rv")
        assert served.refused("/api/v1/status") == (400, "group: expected one of blue, red, got none")
        assert served.refused("/api/v1/status?group=x") == (404, "group: expected one of blue, red, got 'x'")
        assert served.refused("/api/v1/hosts/h9")[0] == 400
        for endpoint in ("/sd/hosts", "/api/v1/status", "/api/v1/events", "/api/v1/hosts/r2", "/plan", "/hosts/r2"):
            for wrong in ("typo", "", "BLUE", "blue%00", "blue,red", "x" * 5000):
                status, why = served.refused(f"{endpoint}?group={wrong}")
                assert (status, why[:40]) == (404, "group: expected one of blue, red, got '" + why[39:40])
                assert len(why) < 200
            twice = served.refused(f"{endpoint}?group=blue&group=red")
            assert twice == (400, "group: expected once, got 2 times")
        assert served.refused("/api/v1/pause?group=typo", b"{}") == (
            404,
            "group: expected one of the configuration's, got 'typo'",
        )
        assert [one["labels"]["__meta_virtpoise_host"] for one in served.get("/sd/hosts?group=red")] == ["r1", "r2"]
        labels = [one["labels"] for one in served.get("/sd/hosts")]
        assert [(one["__meta_virtpoise_group"], one["__meta_virtpoise_host"]) for one in labels] == [
            ("blue", "b1"),
            ("blue", "b2"),
            ("red", "r1"),
            ("red", "r2"),
        ]
        assert 'id="host-r1"' in served.get("/?group=red")
        assert 'id="host-r1"' not in served.get("/?group=blue")
        assert 'data-group="?group=red"' in served.get("/hosts/r1")
        families = {one.name: one for one in text_string_to_metric_families(served.get("/metrics"))}
        loads = families["virtpoise_host_cpu_load_ratio"].samples
        assert {(one.labels["group"], one.labels["host"]) for one in loads} == {
            (name, host.name) for name, one in groups.items() for host in one.seen.hosts
        }
        assert {one.labels["group"] for one in families["virtpoise_cycles"].samples} == set(groups)
        assert [one.labels for one in families["virtpoise_start_timestamp_seconds"].samples] == [{}]

    served.while_it_runs(act)


def test_a_rule_of_all_groups_is_noted_only_where_it_fits_nothing_in_any(
    groups: dict[str, OneGroup], path: Path
) -> None:
    rules = [{"name": "r", "kind": "ignore", "domains": ["bv", "rv", "gone"]}]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"policy": {"rules": rules}}))
    served = Served(path)

    def act() -> None:
        for name in (*groups, *groups):
            served.cycle(name)
        for name in groups:
            notes = served.get(f"/api/v1/plan?group={name}")["plan"]["notes"]
            assert notes == ["the rule 'r' names 'gone', and no domain is called so"]

    served.while_it_runs(act)


def test_a_stopped_balancer_asks_systemd_for_the_time_that_its_migrations_may_take(
    groups: dict[str, OneGroup], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The unit gives it 150 s, which is less than this configuration does."""
    configured = json.loads(path.read_text())
    configured["groups"]["red"]["migration"] = {"stop_grace_seconds": 600}
    path.write_text(json.dumps(configured))
    name = f"virtpoise-test-{os.getpid()}"
    monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(f"\0{name}")
        systemd.settimeout(PATIENCE_SECONDS)
        Served(path).while_it_runs(lambda: None)
        while not (said := systemd.recv(4096).decode()).startswith("STOPPING=1\n"):
            pass
    microseconds = int(said.removeprefix("STOPPING=1\nEXTEND_TIMEOUT_USEC="))
    assert microseconds / 1e6 > 600 + migrate.ABORT_SECONDS + executor.HANDOVER_SECONDS


def virtpoise(path: Path, *arguments: str) -> tuple[int, str]:
    """The exit status and all that was printed, among it the balancer's own log."""
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(out):
        code = main([*arguments, "--config", str(path)])
    return code, out.getvalue()


def test_commands_know_the_group(groups: dict[str, OneGroup], path: Path) -> None:
    for one in groups.values():
        one.seen = group(host(one.seen.hosts[0].name, 0.5), host(one.seen.hosts[1].name, 0.1), *one.seen.domains)
    served = Served(path)

    def act() -> None:
        served.cycle("red")
        code, text = virtpoise(path, "pause")
        assert (code, text.count("Paused: no migration begins")) == (0, 2)
        assert "red: Resumed." in virtpoise(path, "resume", "--group", "red")[1]
        served.cycle("red")
        code, text = virtpoise(path, "status")
        assert code == 0
        assert "paused by" in text.partition("group blue:")[2].partition("group red:")[0]
        code, text = virtpoise(path, "drain", "r1")
        assert (code, "r1 drains from the next cycle on." in text) == (0, True)
        served.until(lambda: groups["red"].moves)
        assert "r1 is back in the group." in virtpoise(path, "undrain", "r1")[1]
        for one in ("snapshot", "plan", "release"):
            code, text = virtpoise(path, one)
            assert (code, "virtpoise: --group: expected one of blue, red\n" in text) == (2, True)
        assert "group: expected one of blue, red, got 'x'" in virtpoise(path, "plan", "--group", "x")[1]
        assert '"name": "r2"' in virtpoise(path, "snapshot", "--group", "red")[1]
        assert "bv" in virtpoise(path, "explain", "bv")[1]
        code, text = virtpoise(path, "drain", "h9")
        assert (code, "h9: no such host is scraped in the groups blue, red" in text) == (2, True)
        assert "pause" in virtpoise(path, "history", "--orders", "--group", "blue")[1]
        assert "drain" not in virtpoise(path, "history", "--orders", "--group", "blue")[1]
        assert virtpoise(path, "history", "--orders")[1].count("drain") >= 2

    served.while_it_runs(act)


def test_a_plan_of_several_groups_is_applied_by_name(groups: dict[str, OneGroup], path: Path) -> None:
    path.write_text(path.read_text().replace('"automatic"', '"recommend"'))
    served = Served(path)

    def act() -> None:
        served.cycle("red")
        code, text = virtpoise(path, "apply", "--yes")
        assert (code, "--group: the plans of blue, red have moves: name one of them" in text) == (1, True)
        assert virtpoise(path, "apply", "rv", "--yes")[0] == 0
        assert [move.domain for move in groups["red"].moves] == ["rv"]
        assert virtpoise(path, "apply", "--yes", "--group", "blue")[0] == 0
        assert [move.domain for move in groups["blue"].moves] == ["bv"]

    served.while_it_runs(act)


def test_a_reload_changes_a_group_and_not_which_there_are(groups: dict[str, OneGroup], path: Path) -> None:
    served = Served(path)
    values = json.loads(path.read_text())
    values["groups"]["red"]["mode"] = "recommend"

    def act() -> None:
        served.until(lambda: groups["red"].moves)
        path.write_text(json.dumps(values))
        served.daemon._reload.set()
        served.until(lambda: served.daemon._groups[1].published.state.mode == "recommend")
        assert served.daemon._groups[0].published.state.mode == "automatic"
        values["groups"]["green"] = {"matchers": 'cluster="green"', "mode": "recommend"}
        values["groups"]["red"]["mode"] = "automatic"
        path.write_text(json.dumps(values))
        served.daemon._reload.set()
        served.until(lambda: not served.daemon._reload.is_set())
        served.cycle("red")
        assert [one.name for one in served.daemon._groups] == ["blue", "red"]
        assert served.daemon._groups[1].published.state.mode == "recommend"

    served.while_it_runs(act)


def test_without_groups_nothing_has_a_group(
    groups: dict[str, OneGroup], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = json.loads(path.read_text())
    del values["groups"]
    path.write_text(json.dumps(values))
    groups[""] = groups["blue"]
    served = Served(path)

    def act() -> None:
        served.cycle("")
        assert served.get("/api/v1/groups") == []
        assert served.get("/api/v1/status")["hosts"][0]["name"] == "b1"
        assert 'group="' not in served.get("/metrics")
        assert "?group" not in served.get("/")

    served.while_it_runs(act)


def test_the_configuration_of_a_group_completes_the_common_one(path: Path) -> None:
    values = json.loads(path.read_text())
    values["policy"] = {"cpu": {"threshold": 0.7}, "memory": {"threshold": 0.95}}
    values["groups"]["red"] |= {"mode": "recommend", "policy": {"cpu": {"consecutive": 5}}}
    values["groups"]["red"]["libvirt"] = {"uri": "qemu+tls://{host}/system"}
    path.write_text(json.dumps(values))
    config: Config = read_config(path)
    blue, red = config.each_group.values()
    assert (blue.mode, blue.policy, blue.libvirt) == (config.mode, config.policy, config.libvirt)
    assert (red.mode, red.policy.cpu.threshold, red.policy.cpu.consecutive) == ("recommend", 0.7, 5)
    assert red.policy.memory == config.policy.memory
    assert (red.libvirt.uri, red.libvirt.pattern) == ("qemu+tls://{host}/system", ("*",))
    assert red.prometheus.matchers == 'job="virtpoise-exporter",cluster="red"'
