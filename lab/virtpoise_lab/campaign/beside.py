"""A second group of hosts behind the same balancer, which the faults of a run do not meet.

It has an overload of its own to solve, or stands still from the start. It must hold up the first group in neither case.
"""

from __future__ import annotations

from random import Random

from virtpoise_lab.campaign.machines import Machine
from virtpoise_lab.campaign.prometheus import selector
from virtpoise_lab.campaign.stage import Stage

FIRST, BESIDE = "first", "beside"
# Why it stands still. An empty one: it does not.
STILL = ("", "", "bad selector", "paused", "braked")
_HOSTS = ("h5", "h6", "h7")
_GROUPED = 0.15  # of all seeds


def drawn(seed: int, groups: int | None) -> Random | None:
    """What draws the second group, or None where there is none. ``groups``: how many; None for the seed's choice.

    All else of the seed is drawn as without the group.
    """
    random = Random(seed + 3_000_000_019)
    wanted = random.random() < _GROUPED
    return random if groups == 2 or (groups is None and wanted) else None


def configured(still: str) -> str:
    """The section of the configuration."""
    matchers = selector("nowhere" if still == "bad selector" else BESIDE)
    return f"groups: {{{FIRST}: {{matchers: '{selector(FIRST)}'}}, {BESIDE}: {{matchers: '{matchers}'}}}}"


def set_up(run: Stage, random: Random, limit: float) -> None:
    """Make the second group's hosts and domains.

    ``limit``: the cores that a host may use. The first of these hosts uses more.
    """
    for host in _HOSTS:
        run.world.machines[host] = Machine(host, group=BESIDE)
        wanted = limit * (random.uniform(1.05, 1.2) if host == _HOSTS[0] else random.uniform(0.15, 0.45))
        run.world.fill(host, wanted, random, named="beside", uuids="00000000-0000-4000-9000-")
    now, execute = run.kernel.at, run.disk.driver.execute
    if run.setting.still == "paused":
        execute(
            "INSERT INTO overrides (group_name, name, value, instead_of, at, who) VALUES (?, 'paused', 'yes', 'no', ?, ?)",
            (BESIDE, now, "person"),
        )
    if run.setting.still == "braked":
        execute(
            "INSERT INTO brakes (group_name, at, cause, why) VALUES (?, ?, 'others', 'two act')",
            (BESIDE, now),
        )
