"""What a move depends on, and which migrations of a sequence may therefore run at the same time.

A move that needs the room that an earlier one makes waits for it; besides, the limits in flight hold in every wave.
Within a wave the moves may end in any order, or not at all, without a host passing a threshold.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence

from virtpoise_balancer.model import Limits


def room_makers(moves: Sequence[tuple[Hashable, Hashable]]) -> list[tuple[int, ...]]:
    """The places of the earlier moves that leave each move's destination: it may fit only thanks to them."""
    leaving: dict[Hashable, list[int]] = defaultdict(list)
    found: list[tuple[int, ...]] = []
    for at, (source, destination) in enumerate(moves):
        found.append(tuple(leaving.get(destination, ())))
        leaving[source].append(at)
    return found


def needs(moves: Sequence[tuple[Hashable, Hashable]], bundles: Sequence[Hashable | None]) -> list[tuple[int, ...]]:
    """The places of the moves that each move must not be made without: its room makers, and the others of its bundle.

    ``bundles``: for each move what its bundle is known by, or None.
    """
    members: dict[Hashable, list[int]] = defaultdict(list)
    for at, bundle in enumerate(bundles):
        if bundle is not None:
            members[bundle].append(at)
    return [
        tuple(sorted({*makers, *members.get(bundles[at], ())} - {at})) for at, makers in enumerate(room_makers(moves))
    ]


def waves(
    moves: Sequence[tuple[int, int]], limits: Limits, under_way: Sequence[tuple[int, int | None]] = ()
) -> list[int]:
    """The number of each move's wave, from 0. ``moves``: (source, destination), in the order of the plan.

    ``under_way``: migrations that were begun earlier and take part of the first wave's limits.
    """
    numbers: list[int] = []
    from_host: Counter[tuple[int, int]] = Counter()
    to_host: Counter[tuple[int, int]] = Counter()
    in_all: Counter[int] = Counter()
    for source, arriving_at in under_way:
        from_host[0, source] += 1
        if arriving_at is not None:
            to_host[0, arriving_at] += 1
        in_all[0] += 1
    first_open = 0  # every wave before it is full
    for (source, destination), makers in zip(moves, room_makers(moves), strict=True):
        while in_all[first_open] >= limits.total:
            first_open += 1
        wave = max([first_open, *(numbers[maker] + 1 for maker in makers)])
        while (
            from_host[wave, source] >= limits.per_source
            or to_host[wave, destination] >= limits.per_destination
            or in_all[wave] >= limits.total
        ):
            wave += 1
        numbers.append(wave)
        from_host[wave, source] += 1
        to_host[wave, destination] += 1
        in_all[wave] += 1
    return numbers
