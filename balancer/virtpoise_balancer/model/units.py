"""The units of the values, with their ranges: one name for each kind of number."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le, MinLen

# Read by the border's validator: unknown keys, NaN and infinities are refused.
STRICT: Mapping[str, Any] = {"extra": "forbid", "allow_inf_nan": False}

Name = Annotated[str, MinLen(1)]
# Of CPUs and the like: far above any machine there is, and low enough to be reckoned with.
MOST_COUNTED = 65536
# Of one host: four times what the largest machine of today has. Linux takes 8,192 at most.
MOST_CPUS = 8192
# Of the memory of one host or domain: 1 PiB.
MOST_BYTES = 2**50
Count = Annotated[int, Ge(1), Le(MOST_COUNTED)]
Amount = Annotated[float, Ge(0)]
# Far above what there is, and low enough to be reckoned with: a snapshot may come from a stranger.
Bytes = Annotated[int, Ge(0), Le(2**63 - 1)]
Quantity = Annotated[float, Ge(0), Le(1e18)]
Speed = Annotated[float, Ge(1e-6), Le(1e18)]
# One CPU against the reference: between the slowest and the fastest machines that could share a group lies far less.
LEAST_CPU_SPEED, MOST_CPU_SPEED = 0.01, 100.0
Threshold = Annotated[float, Gt(0), Le(1)]

# Stands for the unknown speed of a network card or a migration: 1 Gbit/s.
ASSUMED_BYTES_PER_SECOND = 125e6

# A ratio measured from two samples may pass 1 by the jitter of their times; anything further is a broken query.
RATIO_TOLERANCE = 1.05
Ratio = Annotated[float, Ge(0), Le(RATIO_TOLERANCE)]


class Resource(StrEnum):
    """What a host can run short of. ``rx`` and ``tx`` are its busiest uplink, received and sent.

    ``row``: where the resource stands in arrays of resources x hosts, and in columns of domains x resources.
    ``label``: what people call it; both directions of an uplink have one. ``use``: its use in words.
    """

    row: int
    label: str
    use: str

    CPU = "cpu", "CPU", "CPU load"
    MEMORY = "memory", "memory", "memory use"
    RX = "rx", "uplink", "incoming traffic"
    TX = "tx", "uplink", "outgoing traffic"

    def __new__(cls, value: str, label: str, use: str) -> Resource:
        """The member, numbered in the order of definition."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.row = len(cls.__members__)
        member.label = label
        member.use = use
        return member
