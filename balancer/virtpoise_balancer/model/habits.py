"""What domains wanted of a CPU over the last minutes to days, in constant space."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from annotated_types import Ge, Le, Len, Lt

from virtpoise_balancer.model.units import MOST_CPUS, STRICT, Amount, Name

# Over how long the means of a habit go back, in seconds, each four times as long as the one before: a minute to four
# hours.
SCALES_SECONDS = (60.0, 240.0, 960.0, 3840.0, 15360.0)

_EACH_SCALE = Len(len(SCALES_SECONDS), len(SCALES_SECONDS))
# More than any domain can use, even between two uneven samples.
_Cores = Annotated[float, Ge(0), Le(2 * MOST_CPUS)]
_CoresOnScales = Annotated[tuple[_Cores, ...], _EACH_SCALE]


@dataclass(frozen=True, slots=True, kw_only=True)
class Habit:
    """What one domain used of a CPU of speed 1, in cores. ``age_seconds``: how long it was watched.

    ``means``: over each of ``SCALES_SECONDS``, newer readings counting more. ``deviations``: how far each mean is
    usually off the one of the next shorter scale, the first off the reading.

    ``excursion_seconds``: for how long it has been far off ``before_cores``, its mean until then; None: it is not.
    ``peak_seconds``: for how long it was far above it in the last week, in excursions that have ended; ``peak_cores``:
    by how much, in the mean.
    """

    __pydantic_config__: ClassVar[Mapping[str, Any]] = STRICT
    age_seconds: Amount
    means: _CoresOnScales
    deviations: _CoresOnScales
    excursion_seconds: Amount | None = None
    before_cores: _Cores | None = None
    peak_seconds: Amount = 0.0
    peak_cores: _Cores = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Habits:
    """What the domains of a group usually use, by uuid.

    ``ended_ratio``: the share of excursions that ended within each of ``SCALES_SECONDS``, of those that lasted as long
    as the next shorter one. ``peak_ratio``: the share of their time that domains are in a peak, and ``peak_cores``: how
    high that is, in the mean. ``together_ratio``: the variance of what all domains of a host together are off, over the
    sum of their own variances, by scale: 1 where they have nothing to do with each other.
    """

    __pydantic_config__: ClassVar[Mapping[str, Any]] = STRICT
    of_domains: Mapping[Name, Habit] = field(default_factory=dict)
    peak_ratio: Annotated[float, Ge(0), Le(1)] = 0.0
    peak_cores: _Cores = 0.0
    ended_ratio: Annotated[tuple[Annotated[float, Ge(0), Lt(1)], ...], _EACH_SCALE] = (0.0,) * len(SCALES_SECONDS)
    together_ratio: Annotated[tuple[Annotated[float, Ge(1), Le(1e6)], ...], _EACH_SCALE] = (1.0,) * len(SCALES_SECONDS)
