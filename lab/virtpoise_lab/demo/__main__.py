"""``scripts/demo``: the command line of the demo."""

from __future__ import annotations

import argparse
import sys

from virtpoise_lab.demo.screen import Lines, Live, View
from virtpoise_lab.demo.story import run
from virtpoise_lab.errors import LabError


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/demo",
        description="Shows virtpoise at work on real libvirt hosts and real QEMU domains on this machine: one host gets "
        "too busy, the balancer sees it in Prometheus, live-migrates a domain, and shows what it predicted beside "
        "what was measured. Takes about two minutes and leaves nothing behind.",
        epilog="Examples: scripts/demo | scripts/demo --headless | scripts/demo --keep",
    )
    parser.add_argument("--headless", action="store_true", help="print lines instead of drawing a screen")
    parser.add_argument(
        "--keep", action="store_true", help="leave everything running at the end and print the addresses to open"
    )
    arguments = parser.parse_args()
    view: View = Lines() if arguments.headless or not sys.stdout.isatty() else Live()
    try:
        with view:
            return run(view, keep=arguments.keep)
    except LabError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("demo: stopped; everything that it started has been ended", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
