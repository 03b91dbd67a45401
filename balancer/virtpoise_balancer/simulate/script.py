"""What happens to a group whatever its balancer does: its hosts and domains, and what is asked of them step by step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from virtpoise_balancer.analyse.demand import Floats, Mask
from virtpoise_balancer.simulate.contention import Whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """The hosts and domains, as arrays by their numbers.

    ``host_names`` and ``domain_names``: sorted nowhere; ``uuids``: of domains. ``labels``: of each host.
    ``cpus``, ``host_memory_bytes``, ``link_bytes_per_second`` (NaN: unknown): of hosts. ``vcpus``, ``memory_bytes``,
    ``dirty_bytes_per_second``: of domains. ``elastic``: which domains run later what they cannot run now.
    """

    host_names: tuple[str, ...]
    cpus: Floats
    host_memory_bytes: Floats
    link_bytes_per_second: Floats
    domain_names: tuple[str, ...]
    uuids: tuple[str, ...]
    vcpus: Floats
    memory_bytes: Floats
    dirty_bytes_per_second: Floats
    elastic: Mask
    labels: tuple[Mapping[str, str], ...] = ()

    @property
    def hosts(self) -> int:
        return len(self.host_names)

    @property
    def domains(self) -> int:
        return len(self.domain_names)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptedOrder:
    """What a person orders: a host's drain, or its end."""

    host: str
    draining: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Failing:
    """Migrations that fail: those of ``domain`` to ``destination``, both shell patterns."""

    domain: str = "*"
    destination: str = "*"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepDemand:
    """What one step asks of the group.

    ``cores``: what each domain wants. ``memory_bytes``: what it holds. ``rx`` and ``tx``: its traffic in bytes per
    second (all domains). ``home``: the host on which others have it run, -1: it does not run. ``own_cores`` and
    ``own_memory_bytes``: what hosts use for themselves. ``up``: which hosts run. ``seen``: which have figures (hosts).

    ``orders``: given in this step. ``failing``: while it lasts.
    """

    cores: Floats
    memory_bytes: Floats
    rx: Floats
    tx: Floats
    home: Whole
    own_cores: Floats
    own_memory_bytes: Floats
    up: Mask
    seen: Mask
    orders: tuple[ScriptedOrder, ...] = ()
    failing: tuple[Failing, ...] = field(default=())
