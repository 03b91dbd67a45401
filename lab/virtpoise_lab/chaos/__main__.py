"""`scripts/chaos`: plays seeds on real hosts, prints a line for each, and a table by fault at the end."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

_INSIDE = "VIRTPOISE_CHAOS_INSIDE"  # the name of the campaign's own lab
if _INSIDE in os.environ:  # read when the lab is imported
    os.environ["VIRTPOISE_LAB"] = os.environ[_INSIDE]

from virtpoise_lab import processes, requirements, state  # noqa: E402
from virtpoise_lab.chaos.faults import FAULTS  # noqa: E402
from virtpoise_lab.chaos.plan import Plan, draw  # noqa: E402
from virtpoise_lab.chaos.play import Outcome, play  # noqa: E402
from virtpoise_lab.chaos.warm import Warm  # noqa: E402
from virtpoise_lab.errors import LabError  # noqa: E402
from virtpoise_lab.floors import positive  # noqa: E402

_KEPT = Path("/var/tmp/virtpoise-chaos")

_EXAMPLES = """examples:
  scripts/chaos --runs 20                                 seeds 0 to 19, faults as each seed chooses; needs root
  scripts/chaos --runs 1 --seed 4711 --trace              one seed again, with all that happened in it
  scripts/chaos --runs 10 --fault hosts-apart --fault source-stopped
  scripts/chaos --list tests/integration/kept-seeds --output json >> runs
  scripts/chaos --model --help                            the model floor: no hosts, virtual time, thousands of seeds

A seed chooses task, fault, moment and length; what real hosts then make of it is not the same each time. The hosts are
a lab of their own that needs half a CPU: it runs beside others. Two campaigns at once need names of their own:
VIRTPOISE_LAB=NAME in the environment. Alert rules wait for a thirtieth of their time there.

exit status: 0 without a violation, 1 with one, 2 for a wrong argument or a lab that does not come up"""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/chaos",
        description="Plays faults on real libvirt hosts beside a balancer as its user runs it, and judges what comes of it.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--runs", type=positive, default=10, metavar="N", help="how many seeds (default: 10)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="the first seed (default: 0)")
    parser.add_argument(
        "--fault", action="append", choices=sorted(FAULTS), metavar="NAME", help=f"one of {', '.join(sorted(FAULTS))}"
    )
    parser.add_argument("--list", type=Path, metavar="FILE", help="play the lines of a file instead: SEED FAULT")
    parser.add_argument("--output", choices=("table", "json"), default="table", help="json: one line for each run")
    parser.add_argument("--trace", action="store_true", help="print what happened in each run")
    parser.add_argument(
        "--keep", type=Path, default=_KEPT, metavar="FOLDER", help=f"for logs of violating runs (default: {_KEPT})"
    )
    options = parser.parse_args(arguments)
    try:
        plans = _plans(options)
    except (OSError, ValueError) as error:
        parser.error(f"--list: {error}")
    if missing := requirements.missing():
        parser.error(missing)
    if _INSIDE not in os.environ:
        os.environ[_INSIDE] = f"{state.NAME}-chaos"
        again = [sys.executable, "-m", "virtpoise_lab.chaos", *(sys.argv[1:] if arguments is None else arguments)]
        processes.go_on_in_own_network(again)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        return _campaign(plans, options.keep, as_json=options.output == "json", trace=options.trace)
    except LabError as error:
        print(f"chaos: {error}", file=sys.stderr)
        return 2


def _plans(options: argparse.Namespace) -> list[Plan]:
    if options.list is not None:
        return [draw(seed, list(FAULTS), fault) for seed, fault in _listed(options.list.read_text(encoding="utf-8"))]
    faults = options.fault or list(FAULTS)
    return [draw(seed, faults) for seed in range(options.seed, options.seed + options.runs)]


def _listed(text: str) -> Iterator[tuple[int, str]]:
    """The lines "SEED FAULT"; what follows a # is a comment. ValueError that names the line."""
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if len(words) != 2 or not words[0].isdecimal() or words[1] not in FAULTS:
            raise ValueError(f"line {number}: expected a seed and the name of a fault, got {line!r}")
        yield int(words[0]), words[1]


def _campaign(plans: Sequence[Plan], keep: Path, *, as_json: bool, trace: bool) -> int:
    began = time.monotonic()
    played: list[Outcome] = []
    warm = Warm(_say)
    try:
        for plan in plans:
            at = time.monotonic()
            try:
                warm.make_whole(plan)
            except LabError as problem:
                _say(f"a new lab: {problem}")
                warm.close()
                warm = Warm(_say)
                warm.make_whole(plan)
            whole = time.monotonic() - at
            outcome = play(warm, plan, keep)
            played.append(outcome)
            if as_json:
                print(json.dumps(outcome.as_json()), flush=True)
            else:
                _show(outcome, whole, trace=trace)
            if outcome.violations:
                _say(f"again: scripts/chaos --runs 1 --seed {plan.seed} --fault {plan.fault} --trace")
            spent = time.monotonic() - began
            bad = sum(bool(one.violations) for one in played)
            _say(f"{len(played)} of {len(plans)} runs, {bad} with a violation, {spent:.0f} s")
    finally:
        warm.close()
    if not as_json:
        print(_table(played))
        print(
            f"{len(played)} runs, {sum(bool(one.violations) for one in played)} with a violation; "
            f"{sum(one.migrations for one in played)} migrations; {(time.monotonic() - began) / len(played):.0f} s a run"
        )
    return 1 if any(one.violations for one in played) else 0


def _show(outcome: Outcome, whole: float, *, trace: bool) -> None:
    plan = outcome.plan
    moment = plan.moment if outcome.reached else f"({plan.moment})"
    verdict = "; ".join(outcome.violations) or "good"
    print(
        f"seed {plan.seed:<5} {plan.task:<8} {plan.fault:<25} {moment:<15} {plan.seconds:>2.0f} s  "
        f"{whole:>4.1f} + {outcome.seconds:>5.1f} s  {verdict}",
        flush=True,
    )
    if outcome.logs:
        print(f"  logs: {outcome.logs}")
    if trace:
        print("\n".join(f"  {line}" for line in outcome.trace), flush=True)


def _table(played: Sequence[Outcome]) -> str:
    by_fault = defaultdict(list)
    for outcome in played:
        by_fault[outcome.plan.fault].append(outcome)
    rows = [("fault", "runs", "at its moment", "migrations", "seconds a run", "with a violation")]
    for fault, some in sorted(by_fault.items()):
        rows.append(
            (
                fault,
                str(len(some)),
                str(sum(one.reached for one in some)),
                str(sum(one.migrations for one in some)),
                f"{sum(one.seconds for one in some) / len(some):.0f}",
                str(sum(bool(one.violations) for one in some)),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
