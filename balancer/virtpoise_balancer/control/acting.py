"""Whether plans are carried out without a person's approval now, and what keeps the balancer from it. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from virtpoise_balancer.analyse.brake import Brake, in_force, judge
from virtpoise_balancer.blackout import Blackout, blackout_at
from virtpoise_balancer.knowledge.records import Memory, Overrides
from virtpoise_balancer.model import Mode, Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How the balancer stands at one moment.

    ``mode``: in force. ``brake``: in force. ``pulled``: whether it is not in the store yet. ``held``: why no move
    begins without a person's approval, or None: the balancer acts. ``blackout``: what keeps mode automatic from
    beginning moves for a time. ``prefix``: how a cycle's sentence begins.
    """

    mode: Mode = "recommend"
    brake: Brake | None = None
    pulled: bool = False
    held: str | None = "the mode is recommend"
    blackout: Blackout | None = None
    prefix: str = ""

    @property
    def acts(self) -> bool:
        return self.held is None


def mode_in_force(overrides: Overrides, configured: Mode, *, brake: Brake | None, only_recommends: str | None) -> Mode:
    """The mode in force: a person's order overrides the configuration. What lets the balancer only recommend, and the
    ``brake`` that is on, override both.
    """
    return "recommend" if brake or only_recommends else overrides.mode_over(configured)


def standing(
    memory: Memory,
    policy: Policy,
    configured: Mode,
    now: float,
    *,
    only_recommends: str | None = None,
) -> Standing:
    """Whether plans are carried out now, by mode, brake, pause and blackout.

    ``configured``: the mode of the configuration; ``only_recommends``: why no move may be made automatically.

    The brake is judged only while the mode is automatic: a person who applies plans judges for themselves.
    """
    overrides = memory.orders.overrides
    paused = f"paused by {overrides.paused.who}" if overrides.paused else None
    if overrides.mode_over(configured) == "recommend":
        return Standing(held=paused or "the mode is recommend", prefix=f"{paused}: " if paused else "")
    if only_recommends is not None:
        return Standing(held=only_recommends, prefix=f"only recommends, {only_recommends}; ")
    released = overrides.released_at
    brake = in_force(memory.brake, released)
    pulled = None if brake else judge(memory.track_record, policy.brake, released, now, memory.orders.drains)
    if brake := brake or pulled:
        held = f"the brake is on: {brake.why}"
        prefix = f"{paused}: " if paused else f"{held} (virtpoise release); "
        return Standing(brake=brake, pulled=pulled is not None, held=paused or held, prefix=prefix)
    if blackout := blackout_at(policy.windows, now):
        held = f"no migration begins {blackout.text}"
        prefix = f"{paused}: " if paused else f"{held}; "
        return Standing(mode="automatic", held=paused or held, blackout=blackout, prefix=prefix)
    return Standing(mode="automatic", held=paused, prefix=f"{paused}: " if paused else "")
