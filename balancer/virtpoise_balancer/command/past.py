"""What the commands show of the past: cycles, stored plans, one plan in full, and a plan made again."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from rich.text import Text

from virtpoise_balancer.command import terminal
from virtpoise_balancer.command.terminal import Console
from virtpoise_balancer.errors import Refused

if TYPE_CHECKING:
    from virtpoise_balancer.analyse.others import OthersChange
    from virtpoise_balancer.command.options import Output
    from virtpoise_balancer.control.replay import ReplayedPlan
    from virtpoise_balancer.knowledge.records import CycleRecord, PastPlan, PlanRecord
    from virtpoise_balancer.knowledge.store import Store
    from virtpoise_balancer.model import Move, Plan


HistoryKind = Literal["migrations", "orders", "cycles", "others", "plans"]


def show_records(store: Store, kind: HistoryKind, limit: int, output: Output) -> None:
    """Print the newest records of a kind, newest first."""
    kinds: Mapping[HistoryKind, tuple[Callable[[int], Sequence[Any]], Callable[[Any], None]]] = {
        "migrations": (store.history, terminal.show_history),
        "orders": (store.actions, terminal.show_orders),
        "cycles": (store.cycles, _cycles),
        "others": (store.others, _others),
        "plans": (store.plans, _plans),
    }
    read, show = kinds[kind]
    records = read(limit)
    if output == "json":
        terminal.as_json([terminal.plain(record) for record in records])
    else:
        show(records)


def show_why(store: Store, plan_id: int, output: Output) -> None:
    """Print a stored plan. NotKnown when there is no such plan."""
    past = store.plan(plan_id)
    if output == "json":
        terminal.as_json(_why_json(past))
    else:
        _why(past)


def _cycles(records: Sequence[CycleRecord]) -> None:
    if not records:
        Console().print(Text("No cycle has run yet."))
        return
    table = terminal.make_table("from", "to", "cycles", "result", "what it did and why")
    for one in records:
        last = terminal.when(one.last) if one.cycles > 1 else ""
        table.add_row(*terminal.cells(terminal.when(one.first), last, one.cycles, one.result, one.sentence))
    Console().print(table)


def _others(records: Sequence[OthersChange]) -> None:
    if not records:
        Console().print(Text("Others have changed nothing so far."))
        return
    table = terminal.make_table("seen at", "domain", "what", "from", "to")
    for one in records:
        table.add_row(
            *terminal.cells(terminal.when(one.at), one.domain, one.kind.value, one.source or "", one.destination or "")
        )
    Console().print(table)


def _plans(records: Sequence[PlanRecord]) -> None:
    if not records:
        Console().print(Text("No plan has been stored yet."))
        return
    table = terminal.make_table("plan", "made at", "strategy", "moves", "solved", "summary")
    for one in records:
        how = f"{one.moves} {'carried out' if one.acted else 'recommended'}" if one.moves else "0"
        solved = "yes" if one.solved else "no"
        table.add_row(*terminal.cells(one.id, terminal.when(one.made), one.strategy, how, solved, one.summary))
    Console().print(table)


def _why(past: PastPlan) -> None:
    """Its summary, its moves with their reasons, what it refused, and how each move went."""
    console, one = Console(), past.record
    console.print(Text(f"Plan {one.id}, made at {terminal.when(one.made)} by the strategy {one.strategy}."))
    if one.moves:
        console.print(Text("Its moves were carried out." if one.acted else "Its moves were only recommended."))
    terminal.show_plan(past.plan)
    if past.migrations:
        console.print(Text("How each move went:"))
        terminal.show_history(past.migrations[::-1])
    if one.replayable:
        console.print(Text(f"To make it again: virtpoise plan --replay {one.id}"))


def _why_json(past: PastPlan) -> dict[str, Any]:
    return {
        **terminal.plain(past.record),
        "plan": _plan_json(past.plan),
        "migrations": [terminal.plain(record) for record in past.migrations],
    }


def make_again(store: Store, plan_id: int) -> ReplayedPlan:
    """The stored plan, made again. NotKnown when there is no such plan, Refused when what it was made from is not kept
    any more.
    """
    from virtpoise_balancer import __version__
    from virtpoise_balancer.control.replay import replay

    past, inputs = store.plan(plan_id), store.inputs(plan_id)
    if inputs is None:
        raise Refused(
            f"plan {plan_id}: what it was made from is not kept any more (state.keep_bytes); "
            f"virtpoise history --why {plan_id} shows what is"
        )
    return replay(past.plan, inputs, __version__)


def replayed(plan_id: int, found: ReplayedPlan) -> None:
    """Print how a plan that was made again differs from the stored one."""
    console = Console()
    terminal.show_plan(found.plan)
    if found.same:
        console.print(
            Text(f"Plan {plan_id}, made again from the same figures and policy: the same outcome.", style="green")
        )
        return
    versions = "" if found.made_by == found.replayed_by else f" (made by {found.made_by}, again by {found.replayed_by})"
    console.print(Text(f"Plan {plan_id}, made again from the same figures and policy, differs{versions}.", style="red"))
    for text, moves in (("only then", found.missing), ("only now", found.added)):
        for move in moves:
            console.print(Text(f"  {text}: {_named(move)}"))


def replayed_json(plan_id: int, found: ReplayedPlan) -> dict[str, Any]:
    """What `replayed` prints, as JSON."""
    return {
        "id": plan_id,
        "same": found.same,
        "missing": [_named(move) for move in found.missing],
        "added": [_named(move) for move in found.added],
        "made_by": found.made_by,
        "replayed_by": found.replayed_by,
        "plan": _plan_json(found.plan),
    }


def _named(move: Move) -> str:
    return f"{move.domain} from {move.source} to {move.destination}"


def _plan_json(plan: Plan) -> Any:
    from virtpoise_balancer.formats import write_plan

    return json.loads(write_plan(plan))
