"""Which migrations of a sequence may run at the same time.

A move that needs the room that an earlier one makes waits for it; besides, the limits in flight hold in every wave. Within a wave the
moves may end in any order, or not at all, without a host passing a threshold.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from virtpoise_balancer.model import Limits


def waves(
    moves: Sequence[tuple[int, int]], limits: Limits, under_way: Sequence[tuple[int, int | None]] = ()
) -> list[int]:
    """For each (source, destination), in the order of the sequence, the number of its wave, from 0.

    ``under_way``: migrations that were begun earlier and take part of the first wave's limits.
    """
    numbers: list[int] = []
    freed_in: dict[int, int] = {}  # host -> the last wave so far in which a domain leaves it
    from_host: Counter[tuple[int, int]] = Counter()
    to_host: Counter[tuple[int, int]] = Counter()
    in_all: Counter[int] = Counter()
    for source, arriving_at in under_way:
        from_host[0, source] += 1
        if arriving_at is not None:
            to_host[0, arriving_at] += 1
        in_all[0] += 1
    first_open = 0  # every wave before it is full
    for source, destination in moves:
        while in_all[first_open] >= limits.total:
            first_open += 1
        wave = max(freed_in.get(destination, -1) + 1, first_open)
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
        freed_in[source] = max(freed_in.get(source, -1), wave)
    return numbers
