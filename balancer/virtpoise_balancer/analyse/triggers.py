"""Which hosts have too little left of CPU, memory or an uplink, N readings in a row or on the way there by their trend."""

from __future__ import annotations

from collections.abc import Sequence

from virtpoise_balancer.analyse.overload import consecutive
from virtpoise_balancer.model import Host, HostState, Overload, Policy, Snapshot, Trigger


def overloads(
    snapshot: Snapshot, policy: Policy, hosts: Sequence[Host], ahead: Sequence[float]
) -> tuple[Overload, ...]:
    """The active hosts with a problem, one entry a resource, the furthest above its threshold first; ties by name.

    ``ahead``: for each of ``hosts`` its load a few steps from now as its trend has it, NaN without one. With a reading at the threshold and
    the trend above it, the readings that are still missing to N are taken from the trend.
    """
    found: list[tuple[float, Overload]] = []

    def judge(host: Host, resource: str, trigger: Trigger, readings: Sequence[float], *, foreseen: int = 0) -> None:
        if readings[-1] < trigger.threshold:
            return
        count = consecutive(host, trigger, snapshot, readings)
        if count and count + foreseen >= trigger.consecutive:
            excess = readings[-1] / trigger.threshold
            found.append((-excess, Overload(host=host.name, resource=resource, ratio=readings[-1], consecutive=count)))

    for host, coming in zip(hosts, ahead, strict=True):
        if not host.known or host.state is not HostState.ACTIVE:
            continue
        rising = coming >= policy.cpu.threshold  # False for NaN
        judge(host, "cpu", policy.cpu, host.cpu_ratio, foreseen=policy.trend.steps if rising else 0)
        judge(host, "memory", policy.memory, host.memory_ratio_window or (host.memory_ratio,))
        judge(host, "rx", policy.network, host.rx_ratio_window or (host.rx_ratio,))
        judge(host, "tx", policy.network, host.tx_ratio_window or (host.tx_ratio,))
    return tuple(overload for _, overload in sorted(found, key=lambda one: (one[0], one[1].host, one[1].resource)))
