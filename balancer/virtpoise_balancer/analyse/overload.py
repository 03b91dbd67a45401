"""How many consecutive samples of a host count as at or above a threshold, and since when a host has company.

Source: thesis §4.4.4. Every step a host's load is at or above the threshold counts; one below it starts again from 0.
"""

from __future__ import annotations

from collections.abc import Sequence

from virtpoise_balancer.model import Host, HostState, Snapshot, Trigger


def consecutive(host: Host, trigger: Trigger, snapshot: Snapshot, readings: Sequence[float] | None = None) -> int:
    """The number of consecutive samples, ending with the newest, that are at or above the threshold and count.

    ``readings``: the samples, newest last; by default those of the CPU.

    A sample covers the step that ends with it; it counts when that whole step lies after ``counted_from``.
    """
    count = 0
    for age, ratio in enumerate(reversed(host.cpu_ratio if readings is None else readings)):
        if ratio < trigger.threshold:
            break
        if host.counted_from is not None and snapshot.time - (age + 1) * snapshot.step_seconds < host.counted_from:
            break
        count += 1
    return count


def accompanied_since(snapshot: Snapshot) -> dict[str, float | None]:
    """By host, the start of the oldest sample of any other active host (Unix seconds), or None while the host is alone.

    Source: thesis §4.4.4, §5 case 1. While a host is alone its samples lead to nothing. After another one joins, it
    needs N new samples.
    """
    lengths = {
        host.name: len(host.cpu_ratio) for host in snapshot.hosts if host.known and host.state is HostState.ACTIVE
    }
    longest = sorted(lengths, key=lambda name: lengths[name], reverse=True)[:2]
    since: dict[str, float | None] = {}
    for host in snapshot.hosts:
        other = next((name for name in longest if name != host.name), None)
        since[host.name] = None if other is None else snapshot.time - lengths[other] * snapshot.step_seconds
    return since
