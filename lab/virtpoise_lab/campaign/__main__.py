"""`scripts/chaos --model`: plays seeds, reports progress, and prints each violating seed with its trace and how to play
it again.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial

from virtpoise_lab.campaign.faults import FAULTS
from virtpoise_lab.campaign.play import Outcome, last, play
from virtpoise_lab.floors import positive

_PROGRESS_SECONDS = 10.0
_LAST_LINES = 60

_EXAMPLES = """examples:
  scripts/chaos --model --runs 1000                       seeds 0 to 999, faults as each seed chooses
  scripts/chaos --model --runs 1 --seed 4711 --trace      one seed again, with all that happened in it
  scripts/chaos --model --runs 200 --fault source-stopped
  scripts/chaos --model --runs 200 --groups 2              each with a second group behind the same balancer
  scripts/chaos --model --hours 24 --fault source-stopped  what a balancer holds while a host hangs for a day

exit status: 0 without a violation, 1 with one, 2 for a wrong argument"""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/chaos",
        description="Plays the balancer's own code on virtual time among hosts that fail, and judges what comes of it.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", action="store_true", required=True, help="hosts that are state machines")
    parser.add_argument("--runs", type=positive, default=1000, metavar="N", help="how many seeds (default: 1000)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="the first seed (default: 0)")
    parser.add_argument(
        "--fault", action="append", choices=sorted(FAULTS), metavar="NAME", help=f"one of {', '.join(sorted(FAULTS))}"
    )
    parser.add_argument(
        "--groups",
        type=int,
        choices=(1, 2),
        help="how many one balancer serves (default: as each seed chooses, and one with --fault)",
    )
    parser.add_argument(
        "--hours",
        type=positive,
        metavar="H",
        help="play the first seed for so long, with --fault all the time, and print memory, threads and descriptors at "
        "each hour",
    )
    parser.add_argument("--trace", action="store_true", help="print what happened in each run")
    parser.add_argument("--processes", type=positive, default=1, metavar="N", help="how many at once (default: 1)")
    options = parser.parse_args(arguments)
    faults = tuple(options.fault) if options.fault else None
    if options.hours is not None:
        if faults is None:
            parser.error("--hours: expected a --fault that lasts for them")
        return _hours(options.seed, faults, options.hours)
    began, violating, doubled, lost, migrations, played = time.monotonic(), 0, 0, 0, 0, 0
    shown = began
    seeds = range(options.seed, options.seed + options.runs)
    for outcome in _played(seeds, faults, options.groups, options.processes):
        played += 1
        violating += bool(outcome.violations)
        doubled += outcome.doubled
        lost += outcome.lost
        migrations += outcome.migrations
        if outcome.violations or options.trace:
            _show(outcome, faults, options.groups, whole=options.trace)
        if time.monotonic() - shown > _PROGRESS_SECONDS:
            shown = time.monotonic()
            print(f"{played} of {options.runs} runs, {violating} with a violation, {shown - began:.0f} s", flush=True)
    print(
        f"{played} runs, {violating} with a violation; {migrations} migrations, {doubled} runs with a domain on two hosts, "
        f"{lost} with a lost one; {time.monotonic() - began:.0f} s"
    )
    return 1 if violating else 0


def _hours(seed: int, faults: tuple[str, ...], hours: int) -> int:
    print(f"{'hour':>4}  {'memory':>10}  {'threads':>7}  {'descriptors':>11}")
    wrong: tuple[str, ...] = ()
    for one in last(seed, faults, hours):
        memory = f"{one.memory_bytes / 2**20:.1f} MiB"
        print(f"{one.hour:>4}  {memory:>10}  {one.threads:>7}  {one.descriptors:>11}", flush=True)
        wrong = one.violations
    for violation in wrong:
        print(f"VIOLATION: {violation}")
    return 1 if wrong else 0


def _played(seeds: range, faults: tuple[str, ...] | None, groups: int | None, processes: int) -> Iterator[Outcome]:
    one = partial(play, names=faults, groups=groups)
    if processes == 1:
        yield from map(one, seeds)
        return
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from pool.imap_unordered(one, seeds, chunksize=10)


def _show(outcome: Outcome, faults: tuple[str, ...] | None, groups: int | None, *, whole: bool) -> None:
    named = "".join(f" --fault {name}" for name in faults or ()) + (f" --groups {groups}" if groups else "")
    print(f"\nseed {outcome.seed} ({', '.join(outcome.faults)})")
    for violation in outcome.violations:
        print(f"  VIOLATION: {violation}")
    print(f"  again: scripts/chaos --model --runs 1 --seed {outcome.seed}{named} --trace")
    for line in outcome.trace if whole else outcome.trace[-_LAST_LINES:]:
        print(f"  {line}")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
