"""The command ``virtpoise-exporter``."""

import os
import signal
import sys
from types import FrameType

from virtpoise_exporter.errors import UsageError
from virtpoise_exporter.log import configure
from virtpoise_exporter.options import parse_options


def main() -> None:
    """Runs the exporter until SIGTERM or SIGINT.

    A wrong flag or file ends it with one line and exit status 2. SIGINT before it serves ends it with status 130.
    """
    signal.signal(signal.SIGINT, _end_at_once)
    try:
        options = parse_options(sys.argv[1:])
        configure(options.log_level, options.log_format)
        from virtpoise_exporter.exporter import Exporter

        Exporter(options).run()
    except UsageError as error:
        sys.stderr.write(f"virtpoise-exporter: {error}\n")
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _end_at_once(_signal: int, _frame: FrameType | None) -> None:
    """Before it serves there is nothing to put in order, and libvirt's callbacks would lose a KeyboardInterrupt."""
    os._exit(130)
