"""What the lab floor decides without a host: what a seed stands for, and how a run is judged."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

import storing
from builders import domain, group, host
from virtpoise_balancer.errors import StoreError
from virtpoise_balancer.knowledge.store import Store
from virtpoise_balancer.model import Policy
from virtpoise_balancer.plan import plan
from virtpoise_lab.campaign.faults import FAULTS as MODEL_FAULTS
from virtpoise_lab.chaos import rules
from virtpoise_lab.chaos.__main__ import main
from virtpoise_lab.chaos.asked import Standing
from virtpoise_lab.chaos.faults import FAULTS, INSTANT
from virtpoise_lab.chaos.oracle import BETWEEN, LOST, NAMED, TWICE, Facts, Held, Look, judge
from virtpoise_lab.chaos.plan import HOMES, NEEDS, ROOM, Moment, Plan, Task, draw
from virtpoise_lab.chaos.store import StoreFile
from virtpoise_lab.chaos.truth import asked_again
from virtpoise_lab.floors import DURATIONS, Entry
from virtpoise_lab.stack import RULES

# Faults that the model need not have.
ON_HOSTS_ALONE = {
    *("source-qemu-stopped", "destination-qemu-stopped", "hosts-lossy"),
    *("prometheus-garbage", "balancer-ended", "balancer-stopped", "store-refuses-beginnings"),
    "postgresql-restarted",
}
RUNNING = Standing("running", True, False)
SHUT_OFF = Standing("shut off", True, False)
BETWEEN_HOSTS = Standing("paused", True, False, between=True)
PLACES = {"vm1": {"h3": RUNNING}, "vm2": {"h1": RUNNING}, "vm3": {"h2": RUNNING}, "vm4": {"h3": RUNNING}}
DONE = Entry(1, "uuid of vm1", "h1", "h3", 100.0, "done", False, 106.0)
HOME = dict.fromkeys(HOMES.items(), "running")
ARRIVING = HOME | {("vm1", "h3"): "inmigrate"}
MOVED = {("vm1", "h3"): "running"} | {key: state for key, state in HOME.items() if key != ("vm1", "h1")}
GONE = {key: state for key, state in HOME.items() if key != ("vm1", "h1")}


def good() -> Facts:
    """A run in which vm1 was moved from h1 to h3, while the source's libvirtd was away for 27 s."""
    return Facts(
        plan=Plan(1, Task.OVERLOAD, "source-stopped", Moment.PERFORM, 27.0, 0.5),
        homes=HOMES,
        uuids={name: f"uuid of {name}" for name in HOMES},
        room=ROOM[Task.OVERLOAD],
        began=103.0,
        healed=130.0,
        ends={"source": "h1", "destination": "h3", "bystander": "h2"},
        changes=[(90.0, HOME), (100.5, ARRIVING), (105.0, MOVED), (150.0, MOVED)],
        fired=frozenset({("VirtpoiseHostUnknown", "h1")}),
        cycles=[float(at) for at in range(90, 140, 2)],
        oldest=[(99.0, 0.0), (102.0, 1.0), (105.5, 4.0), (107.0, 0.0)],
        after=Look(140.0, PLACES, [DONE], frozenset()),
        end=Look(150.0, PLACES, [DONE], frozenset()),
        task_done=True,
        held=Held(21, 42, 5),
        exits=[0],
    )


def after(facts: Facts, **changed: object) -> None:
    assert facts.after is not None
    facts.after = replace(facts.after, **changed)  # type: ignore[arg-type]


def end(facts: Facts, **changed: object) -> None:
    assert facts.end is not None
    facts.end = replace(facts.end, **changed)  # type: ignore[arg-type]


def lost(facts: Facts) -> None:
    """Its QEMU died at 103, in the migration, and a person has started it later."""
    facts.mended = {"vm1"}
    facts.changes = [(90.0, HOME), (100.5, ARRIVING), (103.0, GONE), (150.0, GONE)]
    failed = replace(DONE, result="failed", lost=True)
    after(facts, places=PLACES | {"vm1": {"h1": SHUT_OFF}}, entries=[failed])
    end(facts, places=PLACES | {"vm1": {"h1": RUNNING}}, entries=[replace(failed, lost=False)])


def pushed(facts: Facts) -> None:
    onto = replace(DONE, destination="h2")
    arriving = HOME | {("vm1", "h2"): "inmigrate"}
    facts.changes = [(at, arriving if states is ARRIVING else states) for at, states in facts.changes]
    end(facts, entries=[onto], places=PLACES | {"vm1": {"h2": RUNNING}})


def planned(facts: Facts, *, at: float) -> None:
    """A move back to h1, whose libvirtd is away from 103 to 130, and which was skipped."""
    end(facts, entries=[DONE, Entry(2, "uuid of vm1", "h3", "h1", None, "skipped", False, at, at)])


def slow(facts: Facts, *, shown: float) -> None:
    """A migration of 25 s, and how long it was shown to have taken after 20."""
    facts.changes = [(90.0, HOME), (100.5, ARRIVING), (125.0, MOVED), (150.0, MOVED)]
    facts.oldest = [(110.0, 9.0), (120.0, shown)]
    end(facts, entries=[replace(DONE, ended=125.0)])


def test_a_good_run_has_no_violation() -> None:
    assert judge(good()) == []


def paused(facts: Facts) -> None:
    """It arrives at 105, and stands paused until the images are free."""
    waiting = MOVED | {("vm1", "h3"): "paused"}
    facts.plan = replace(facts.plan, fault="images-held")
    facts.changes = [(90.0, HOME), (100.5, ARRIVING), (105.0, waiting), (130.2, MOVED), (150.0, MOVED)]
    facts.oldest = []


WRONG: dict[str, tuple[Callable[[Facts], object], str]] = {
    "ran twice": (
        lambda f: setattr(f, "changes", [(100.0, HOME | MOVED), (101.0, MOVED)]),
        "vm1 ran on two hosts at once, for 1.0 s",
    ),
    "active twice, no alert": (
        lambda f: after(f, places=PLACES | {"vm1": {"h1": RUNNING, "h3": RUNNING}}),
        "vm1: active on two hosts, and no alert says so",
    ),
    "an alert of what is not": (
        lambda f: after(f, alerts=frozenset({(TWICE, "")})),
        "no domain is active twice, and an alert says so",
    ),
    "lost, no alert": (lost, "vm1: lost in a migration, and no alert says so"),
    "an alert of a loss that is none": (
        lambda f: after(f, alerts=frozenset({(LOST, "")})),
        "each domain runs once, and an alert says that one is lost",
    ),
    "not started, no alert": (paused, "vm1 stood paused where it had arrived for 25 s, and no alert fired"),
    "half way": (
        lambda f: after(f, places=PLACES | {"vm1": {"h3": Standing("paused", True, False)}}),
        "vm1 stands paused on h3, and nothing goes on with it",
    ),
    "between two hosts, no alert": (
        lambda f: after(f, places=PLACES | {"vm1": {"h1": BETWEEN_HOSTS}}),
        "vm1: left between two hosts, and no alert says so",
    ),
    "an alert of none between": (
        lambda f: after(f, alerts=frozenset({(BETWEEN, "")})),
        "no domain stands between two hosts, and an alert says so",
    ),
    "open": (
        lambda f: after(f, entries=[replace(DONE, result=None)]),
        "entry 1 of vm1 is still open, and no job of it runs",
    ),
    "the journal says otherwise": (
        lambda f: end(f, entries=[replace(DONE, result="failed")]),
        "by the journal vm1 is on h1; it is on h3",
    ),
    "defined twice": (
        lambda f: end(f, places=PLACES | {"vm1": {"h3": RUNNING, "h1": SHUT_OFF}}),
        "vm1 runs on h3 at the end, and is defined on h3, h1",
    ),
    "no end": (lambda f: end(f, entries=[DONE, replace(DONE, id=2, result=None)]), "entry 2 of vm1 has no end"),
    "nowhere": (lambda f: end(f, places=PLACES | {"vm1": {}}), "vm1 is active on 0 hosts at the end: none"),
    "an alert that stays": (
        lambda f: end(f, alerts=frozenset({(LOST, "")})),
        f"all is well at the end, and {LOST} fires",
    ),
    "pushed over": (pushed, "h2 was pushed over its threshold by vm1: it then had ['vm1', 'vm3']"),
    "not in the journal": (
        lambda f: end(f, entries=[replace(DONE, began=101.0)]),
        "a migration of vm1 to h3 began that the journal does not have",
    ),
    "planned to the silent": (
        lambda f: planned(f, at=120.0),
        "a move to h1 was planned 17 s after it had fallen silent",
    ),
    "no cycles": (
        lambda f: setattr(f, "cycles", [at for at in f.cycles if not 105 < at < 125]),
        "no cycle ended for 22 s",
    ),
    "no cycle at all": (lambda f: setattr(f, "cycles", []), "no cycle ended for 27 s"),
    "time begun anew": (
        lambda f: slow(f, shown=1.0),
        "the oldest migration had taken 20 s, and 1 s were shown",
    ),
    "task": (lambda f: setattr(f, "task_done", False), "the task was not finished: overload"),
    "silent host, no alert": (
        lambda f: setattr(f, "fired", frozenset()),
        "h1 was silent for 27 s, and no alert named it",
    ),
    "alert of another host": (
        lambda f: setattr(f, "fired", frozenset({("VirtpoiseHostUnknown", "h2")})),
        "h1 was silent for 27 s, and no alert named it",
    ),
    "status": (lambda f: setattr(f, "exits", [0, 1]), "a balancer that was stopped ended with status 1"),
    "threads": (lambda f: setattr(f, "held", Held(40, 40, 5)), "the balancer has 40 threads"),
    "descriptors": (lambda f: setattr(f, "held", Held(20, 90, 5)), "the balancer has 90 descriptors"),
    "asking": (lambda f: setattr(f, "held", Held(20, 40, 12)), "the balancer has 12 processes that ask hosts"),
    "traceback": (lambda f: f.tracebacks.append("KeyError"), "a traceback in the balancer's log: KeyError"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_with_a_run_is_found_and_nothing_else(what: str) -> None:
    change, violation = WRONG[what]
    facts = good()
    change(facts)
    assert judge(facts) == [violation]


@pytest.mark.parametrize(
    "change",
    [
        lambda f: planned(f, at=110.0),  # it was not known yet
        lambda f: planned(f, at=131.0),  # it answers again
        lambda f: slow(f, shown=19.0),
        lambda f: slow(f, shown=0.0),  # a domain that runs twice is no migration under way
    ],
)
def test_what_may_be_is_not_found(change: Callable[[Facts], object]) -> None:
    facts = good()
    change(facts)
    assert judge(facts) == []


def test_a_domain_that_its_migration_left_half_way_has_its_alert() -> None:
    facts = good()
    places, fires = PLACES | {"vm1": {"h1": BETWEEN_HOSTS}}, frozenset({(BETWEEN, "")})
    after(facts, places=places, alerts=fires, entries=[replace(DONE, result=None)])
    assert judge(facts) == []


def test_no_cycle_is_noted_while_prometheus_the_store_or_the_balancer_is_away() -> None:
    for fault in ("prometheus-killed", "store-full", "balancer-killed"):
        facts = good()
        facts.plan, facts.cycles = replace(facts.plan, fault=fault, seconds=15.0), []
        assert judge(facts) == []


def test_a_domain_that_a_person_ended_is_not_lost() -> None:
    facts = good()
    facts.touched = {"vm1"}
    lost(facts)
    assert judge(facts) == []


def test_a_domain_that_died_before_libvirt_was_asked_is_not_lost_in_a_migration() -> None:
    facts = good()
    lost(facts)
    facts.changes = [(at, states) for at, states in facts.changes if states is not ARRIVING]
    assert judge(facts) == []


def test_a_host_that_is_drained_is_silent_by_intent() -> None:
    facts = good()
    facts.fired, facts.drained = frozenset(), "h1"
    assert judge(facts) == []


@pytest.mark.parametrize(("then", "seen"), [("postmigrate", "postmigrate"), ("running", "running")])
def test_a_domain_that_is_handed_over_in_the_midst_of_a_look_does_not_seem_to_run_twice(then: str, seen: str) -> None:
    """Once a busy machine made a look last for 0.6 s."""
    states = {("vm1", "h1"): "running", ("vm1", "h3"): "running", ("vm2", "h1"): "running"}
    asked = {("vm1", "h1"): then, ("vm1", "h3"): "running"}
    assert asked_again(states, asked.__getitem__) == states | {("vm1", "h1"): seen}


def test_names_of_faults_mean_the_same_on_both_floors() -> None:
    assert set(FAULTS) - set(MODEL_FAULTS) <= ON_HOSTS_ALONE
    assert set(NAMED) | INSTANT | set(NEEDS) <= set(FAULTS)


def test_seeds_draw_every_fault_moment_task_and_length_and_always_the_same() -> None:
    plans = [draw(seed, list(FAULTS)) for seed in range(1000)]
    assert plans == [draw(seed, list(FAULTS)) for seed in range(1000)]
    assert {plan.fault for plan in plans} == set(FAULTS)
    assert {plan.moment for plan in plans} == set(Moment)
    assert {plan.task for plan in plans} == set(Task)
    assert {plan.seconds for plan in plans} == set(DURATIONS)


def test_a_seed_with_its_fault_given_is_the_same_run() -> None:
    plan = draw(7, list(FAULTS))
    assert draw(7, [plan.fault]) == plan
    assert draw(7, ["store-full"]) == replace(plan, fault="store-full")


def test_alert_rules_wait_for_a_thirtieth_and_are_the_same_otherwise(tmp_path: Path) -> None:
    made = [yaml.safe_load(file.read_text()) for file in rules.scaled(tmp_path)]
    kept = [yaml.safe_load(file.read_text()) for file in sorted(RULES.glob("*.rules.yml"))]
    waits = [
        (old.pop("for"), new.pop("for"))
        for before, now in zip(kept, made, strict=True)
        for old_group, new_group in zip(before["groups"], now["groups"], strict=True)
        for old, new in zip(old_group["rules"], new_group["rules"], strict=True)
        if "for" in old
    ]
    assert made == kept
    assert {("30s", "1s"), ("1m", "2s"), ("5m", "10s"), ("30m", "60s")} <= set(waits)


@pytest.mark.parametrize("line", ["4711", "x source-stopped", "1 no-such-fault", "1 source-stopped now"])
def test_a_list_with_a_line_that_is_none_is_refused(
    line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "list"
    file.write_text(f"# seeds\n3 source-stopped  # why\n{line}\n")
    with pytest.raises(SystemExit) as ended:
        main(["--list", str(file)])
    assert ended.value.code == 2
    assert capsys.readouterr().err.endswith(
        f"error: --list: line 3: expected a seed and the name of a fault, got {line!r}\n"
    )


def test_a_store_that_refuses_beginnings_takes_plans_and_ends(tmp_path: Path) -> None:
    made = plan(group(host("h1", 0.95, 0.95, 0.95), host("h2", 0.1, 0.1, 0.1), domain("a", "h1", 2.0)), Policy())
    with closing(Store.open(f"sqlite:///{tmp_path}/virtpoise.db")) as store:
        ((first, _),) = storing.record(store, made, 1000.0, acted=True)
        store.begin(first)
        with StoreFile(tmp_path / "virtpoise.db").refuses_beginnings():
            store.end(first, storing.DONE)
            ((second, _),) = storing.record(store, made, 1010.0, acted=True)
            with pytest.raises(StoreError, match="full"):
                store.begin(second)
        store.begin(second)
    assert [(one.result, one.is_open) for one in StoreFile(tmp_path / "virtpoise.db").entries()] == [
        ("done", False),
        (None, True),
    ]
