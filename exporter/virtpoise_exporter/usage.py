"""A domain's usage, as both sources give it: the kernel and libvirt."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple


class Flow(NamedTuple):
    """What went through a network device in one direction. None marks a counter that cannot be read."""

    bytes: int
    packets: int | None = None
    errors: int | None = None
    drops: int | None = None


class Traffic(NamedTuple):
    """What went through one network device, as the guest sees it."""

    received: Flow
    sent: Flow


@dataclass(frozen=True, slots=True)
class Usage:
    """What one domain used since its process started. None marks a figure that cannot be read now."""

    cpu_seconds: float | None
    vcpu_seconds: float | None
    cpu_delay_seconds: float | None
    resident_bytes: int | None
    traffic: Mapping[str, Traffic] = field(default_factory=dict)


class VcpuSum:
    """The sum of a counter over a domain's vCPUs, which never falls.

    A vCPU that was unplugged stays in the sum with its last value. One that is plugged in again starts from zero and
    is added on top.
    """

    def __init__(self) -> None:
        self._last: dict[str, int] = {}
        self._before = 0

    def add(self, readings: Mapping[str, int]) -> int:
        """The sum, in nanoseconds, after new readings of some or all vCPUs."""
        for vcpu, reading in readings.items():
            last = self._last.get(vcpu, 0)
            if reading < last:
                self._before += last
            self._last[vcpu] = reading
        return self._before + sum(self._last.values())


@dataclass(frozen=True, slots=True)
class VcpuSums:
    """The sums of one domain: the time its vCPUs ran, and the time they waited for a CPU."""

    run: VcpuSum = field(default_factory=VcpuSum)
    delay: VcpuSum = field(default_factory=VcpuSum)
