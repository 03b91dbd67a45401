"""What the balancer's unit gives it time for."""

from __future__ import annotations

import re
from pathlib import Path

from virtpoise_balancer.config.migration import Migration
from virtpoise_balancer.execute import executor, migrate

UNIT = Path(__file__).parents[2] / "balancer" / "virtpoise.service"


def test_a_stopped_balancer_is_not_killed_before_it_has_aborted_what_does_not_end() -> None:
    given = re.search(r"^TimeoutStopSec=(\d+)s$", UNIT.read_text(encoding="utf-8"), re.MULTILINE)
    assert given is not None
    takes = Migration().stop_grace_seconds + migrate.ABORT_SECONDS + executor.HANDOVER_SECONDS
    assert int(given[1]) > takes
