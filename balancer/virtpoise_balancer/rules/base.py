"""What a kind of placement rule is: three shapes, by what a rule of the kind is about.

The planner asks these methods and knows no kind. A kind that answers them takes part in planning, refusals, repairs and
explanations.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from virtpoise_balancer.model import Detail, Domain, Placement, Reason

if TYPE_CHECKING:  # commands that only print read kinds as well, and start faster without numpy
    import numpy as np
    from numpy.typing import NDArray

# How much a soft rule counts in the choice between destinations. Preferences count half as much.
SOFT = 4.0


@dataclass(frozen=True, slots=True)
class Strays:
    """Domains that must move so that a rule is kept.

    ``anchor``: the only host (number) that keeps it; None: any other.
    """

    domains: tuple[Domain, ...]
    anchor: int | None = None


class Kind:
    """A kind of placement rule; one object for all rules of the kind.

    ``name``: as the configuration has it. ``names_hosts``: whether its rules name hosts. ``least_domains``: how many
    domains a rule must name to mean anything. ``wording``: why something is refused because of the rule. ``figures``:
    the wordings of the numbers that only this kind gives with it, by key.
    """

    name: str
    names_hosts = False
    least_domains = 1
    # ``RULE`` serves any kind: it is worded by the kind. The others are part of the API since earlier versions.
    reason = Reason.RULE
    wording: str
    figures: Mapping[str, str] = {}

    def asked(self, placement: Placement) -> tuple[str, ...]:
        """What a domain's own metadata asks for: the hosts or groups that it names under this kind."""
        return tuple(getattr(placement, self.name, ()))

    def why(self, rule: str) -> Detail:
        """What a refusal because of the rule carries."""
        return {"kind": self.name, "rule": rule} if self.reason is Reason.RULE else {"rule": rule}


class HoldKind(Kind):
    """A rule that keeps each of its domains where it is.

    ``binding``: whether nothing moves them; otherwise they move where nothing else helps, and in a drain.
    """

    binding = True

    def asks(self, placement: Placement) -> bool:
        """Whether a domain's own metadata asks for it."""
        return bool(getattr(placement, self.name, False))


class HostKind(Kind):
    """A rule about each of its domains by itself, and hosts.

    ``binding``: whether a rule of the kind that is hard forbids anything. ``weight``: how much it counts on each host
    that keeps it, where it forbids nothing.
    """

    names_hosts = True
    binding = True
    weight = SOFT

    def allows(self, named: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """The hosts that keep the rule (hosts). ``named``: the hosts that the rule names (hosts)."""
        raise NotImplementedError


class GroupKind(Kind):
    """A rule about several domains and how many of them are on one host.

    ``attracts``: whether they are wanted on one host. Where such a rule is hard, those on one host move together.
    ``takes_most``: whether a rule may say how many of them one host may have.
    ``for_one``: how a rule binds a domain that asks for it in its own metadata, and no other: as a rule about the hosts
    where the others are. None: metadata cannot ask for it.
    """

    least_domains = 2
    attracts = False
    takes_most = False
    for_one: HostKind | None = None

    def allows(self, there: int, arriving: int = 1) -> bool:
        """Whether a host with ``there`` of the domains may take ``arriving`` more.

        One domain is allowed on each host.
        """
        raise NotImplementedError

    def at_most(self, most: int) -> GroupKind:
        """The kind where one host may have this many of the domains; the same object for the same number."""
        raise NotImplementedError

    def most(self, count: int) -> int:
        """How many of ``count`` domains one host may have."""
        return sum(map(self.allows, range(count)))

    def why_full(self, rule: str, there: int) -> Detail:
        """What the refusal of a host with ``there`` of the domains carries."""
        return {**self.why(rule), "there": there} if self.reason is Reason.RULE else self.why(rule)

    def kept(self, there: int, size: int) -> bool:
        """Whether a domain of the rule keeps it on a host that has ``there`` of the rule's other domains.

        ``size``: how many domains the rule is about.
        """
        return self.allows(there)

    def liking(self, there: int, arriving: int, *, hard: bool) -> float:
        """How well a host with ``there`` of the domains would keep the rule with ``arriving`` more; 0: it makes no
        difference.
        """
        return 0.0 if hard or self.allows(there, arriving) else -SOFT

    def violated(self, at: Mapping[int, Sequence[Domain]]) -> Iterator[Strays]:
        """Which domains must move so that the rule is kept. ``at``: its domains by host, the cheapest to move first.

        By default all but those that are dearest to move, on each host that has more than it may.
        """
        for _, domains in sorted(at.items()):
            surplus = len(domains) - self.most(len(domains))
            if surplus > 0:
                yield Strays(tuple(domains[:surplus]))

    def crowded(self, rule: str, size: int, places: int) -> str:
        """The conflict of a rule whose ``size`` domains are too many for the hosts on which any of them may be."""
        return f"{rule} has {size} domains, too many for {places} hosts"
