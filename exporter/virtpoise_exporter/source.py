"""What a domain uses, and the interface of those who can tell: the kernel or libvirt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from virtpoise_exporter.virt.model import Domain


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes through one network device, as the guest sees them."""

    received_bytes: int
    sent_bytes: int


@dataclass(frozen=True, slots=True)
class Usage:
    """What one domain used since its process began. None is what could not be told now."""

    cpu_seconds: float | None
    vcpu_seconds: float | None
    cpu_delay_seconds: float | None
    resident_bytes: int | None
    traffic: Mapping[str, Traffic] = field(default_factory=dict)


class VcpuSum:
    """Sums a counter of a domain's vCPUs, so that the sum never goes backwards: a vCPU that was unplugged stays in it with
    its last figure, and one that is plugged again, and so starts from zero, is added on top."""

    def __init__(self) -> None:
        self._last: dict[str, int] = {}
        self._before = 0

    def add(self, readings: Mapping[str, int]) -> int:
        """The sum after a reading of some or all vCPUs, in nanoseconds."""
        for vcpu, reading in readings.items():
            last = self._last.get(vcpu, 0)
            if reading < last:
                self._before += last
            self._last[vcpu] = reading
        return self._before + sum(self._last.values())


@dataclass(frozen=True, slots=True)
class VcpuSums:
    """Of one domain: what its vCPUs ran, and what they waited for a CPU."""

    run: VcpuSum = field(default_factory=VcpuSum)
    delay: VcpuSum = field(default_factory=VcpuSum)


class Source(Protocol):
    """Tells what domains use. Two of them exist and give equal numbers for the same domain."""

    @property
    def name(self) -> str:
        """`kernel` or `libvirt`."""

    def read(self, domains: Sequence[Domain], seconds: float, /) -> Mapping[str, Usage]:
        """The usage of the active `domains` by uuid, read now, after at most `seconds`.

        A domain that cannot be read now is left out.
        """
