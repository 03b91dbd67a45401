"""What the commands show of the past: cycles, plans, one plan in full, and a plan made again."""

import io
import json
from collections.abc import Iterator
from contextlib import closing, redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from sqlalchemy import text

from builders import FakeClock, domain, group, host
from storing import record
from virtpoise_balancer.command.main import main
from virtpoise_balancer.control.decide import CycleResult, next_cycle
from virtpoise_balancer.knowledge.records import Changes
from virtpoise_balancer.knowledge.store import Store
from virtpoise_balancer.model import MigrationOutcome, Policy, Result, Trigger
from virtpoise_balancer.plan import plan

BUSY = group(host("h1", 0.9, 0.9, 0.9), host("h2", 0.1, 0.1, 0.1), domain("[red]a", "h1", 3.0), domain("b", "h1", 0.5))
POLICY = Policy(cpu=Trigger(threshold=0.7))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(Store.open(f"sqlite:///{tmp_path}/state.db", clock=FakeClock(1005.0))) as opened:
        yield opened


@pytest.fixture
def config(tmp_path: Path) -> list[str]:
    path = tmp_path / "virtpoise.yml"
    path.write_text(f"state: {{url: 'sqlite:///{tmp_path}/state.db'}}\npolicy: {{cpu: {{threshold: 0.99}}}}\n")
    return ["--config", str(path)]


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def virtpoise(*arguments: str) -> tuple[int, str]:
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        code = main(arguments)
    return code, out.getvalue() + err.getvalue()


def carried_out(store: Store) -> None:
    made = plan(BUSY, POLICY)
    ((migration_id, _),) = record(store, made, 1000.0, acted=True, snapshot=BUSY, policy=POLICY)
    store.begin(migration_id)
    store.end(migration_id, MigrationOutcome(result=Result.FAILED, why="full"))


def test_plans_are_listed_with_their_ids_and_one_is_explained(store: Store, config: list[str]) -> None:
    assert virtpoise("history", "--plans", *config) == (0, "No plan has been stored yet.\n")
    carried_out(store)
    code, listed = virtpoise("history", "--plans", *config)
    assert code == 0
    assert "1 carried out" in listed
    (one,) = json.loads(virtpoise("history", "--plans", *config, "--output", "json")[1])
    assert (one["id"], one["moves"], one["acted"], one["replayable"]) == (1, 1, True, True)
    code, why = virtpoise("history", "--why", "1", *config)
    assert code == 0
    for part in (
        "Its moves were carried out.",
        "h1 is overloaded",
        "[red]a",
        "failed: full",
        "virtpoise plan --replay 1",
    ):
        assert part in " ".join(why.split()), part
    in_full = json.loads(virtpoise("history", "--why", "1", *config, "--output", "json")[1])
    assert in_full["plan"]["moves"][0]["domain"] == "[red]a"
    assert in_full["migrations"][0]["why"] == "full"


def test_a_plan_is_made_again_with_its_own_policy_and_comes_out_the_same(store: Store, config: list[str]) -> None:
    """With the policy of the configuration as it is now, no host would be overloaded."""
    carried_out(store)
    code, said = virtpoise("plan", "--replay", "1", *config)
    assert code == 0
    assert "[red]a" in said
    assert "Plan 1, made again from the same figures and policy: the same outcome." in " ".join(said.split())
    found = json.loads(virtpoise("plan", "--replay", "1", *config, "--output", "json")[1])
    assert (found["same"], found["missing"], found["added"]) == (True, [], [])


def test_a_plan_that_comes_out_otherwise_is_said_to_with_the_moves(store: Store, config: list[str]) -> None:
    record(store, plan(BUSY, POLICY), 1000.0, acted=False, snapshot=group(*BUSY.hosts[::-1]), policy=POLICY)
    code, said = virtpoise("plan", "--replay", "1", *config)
    assert code == 1
    assert "differs" in said
    assert "only then: [red]a from h1 to h2" in said


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["plan", "--replay", "9"], 2, "9: no plan with this id is stored; virtpoise history --plans lists them"),
        (["history", "--why", "9"], 2, "9: no plan with this id is stored"),
        (
            ["history", "--why", "1", "--plans"],
            2,
            "history: expected one of --orders, --cycles, --others, --plans, --why",
        ),
        (["plan", "--replay", "1", "--snapshot", "x"], 2, "plan: expected one of --snapshot, --replay"),
        (["plan", "--replay", "1"], 1, "plan 1: what it was made from is not kept any more (state.keep_bytes)"),
    ],
)
def test_what_cannot_be_shown_is_said_in_one_line(
    store: Store, config: list[str], arguments: list[str], code: int, says: str
) -> None:
    carried_out(store)
    with store.database.writing() as connection:
        connection.execute(text("UPDATE plans SET inputs = NULL"))
    found, said = virtpoise(*arguments, *config)
    assert (found, said.count("\n")) == (code, 1)
    assert says in said


def test_cycles_that_came_to_the_same_are_one_line(store: Store, config: list[str]) -> None:
    assert virtpoise("history", "--cycles", *config) == (0, "No cycle has run yet.\n")
    for now, sentence in ((1000.0, "h1 waits 90 s more"), (1010.0, "h1 waits 80 s more"), (1020.0, "nothing to do")):
        cycle = next_cycle(
            now, CycleResult.WAITING, sentence, store.recall(moved_since=0, ended_since=0, judged_since=0).newest_cycle
        )
        store.commit(Changes(cycle=cycle), now)
    rows = json.loads(virtpoise("history", "--cycles", *config, "--output", "json")[1])
    assert [(row["first"], row["last"], row["cycles"], row["sentence"]) for row in rows] == [
        (1020, 1020, 1, "nothing to do"),
        (1000, 1010, 2, "h1 waits 80 s more"),
    ]
    assert "h1 waits 80 s more" in virtpoise("history", "--cycles", *config)[1]
