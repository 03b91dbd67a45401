"""The running domains of one host as arrays: what they want, what each adds elsewhere, and the load that some of them
make.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby, islice

import numpy as np

from virtpoise_balancer.analyse.demand import Demands, Floats, Mask
from virtpoise_balancer.analyse.prediction import Load, predict
from virtpoise_balancer.model import ASSUMED_BYTES_PER_SECOND, Domain, Host

# How far a domain's traffic may differ from what was measured, as a share of it.
TRAFFIC_DOUBT = 0.25
# The most hosts in one batch of predictions.
BATCH_HOSTS = 64
# The largest host of a batch (cases x domains). Batches are padded to their largest host, so a larger one is predicted
# alone.
_MOST_TOGETHER = 4_000


@dataclass
class Residents:
    """The running domains of one host with their demand, and what each adds to another host.

    Apart from caches nothing changes.
    """

    # The host's number in the group.
    number: int
    host: Host
    # Its CPU load over the last N samples, 0..1.
    level: float
    # How far that may be from what is measured next, likewise.
    noise: float
    # Whether the load hides demand.
    saturated: bool
    # By name. A domain's place is its row in all arrays.
    running: list[Domain]
    demands: Demands
    # The host's own CPU use, in cores.
    own: float
    # How many spreads the interval of a destination that takes a domain from here extends above its prediction.
    above: float
    # What a domain's destination needs beyond its memory while it arrives, as a share of that memory.
    overhead_ratio: float
    # Which are being migrated elsewhere already (domains).
    leaving: Mask
    # What the formula for the load is off by now, which later predictions are corrected by: the host's part, and each
    # domain's (domains).
    corrections: tuple[float, Floats]
    _arriving: dict[tuple[float, ...], Demands] = field(default_factory=dict)
    _loads: dict[tuple[object, ...], tuple[Load, Sequence[Demands]]] = field(default_factory=dict)

    @cached_property
    def wants(self) -> Floats:
        """The CPU that each wants at the upper end, in the group's units (domains)."""
        sums, on_off = self.demands.sums, self.demands.on_off
        doubt = sums.doubt + np.minimum(on_off, 1 - on_off) * np.abs(sums.all_on_off - sums.all_catching_up)
        wants: Floats = (sums.on_off + sums.catching_up + self.above * doubt) * self.host.cpu_speed
        return wants

    @cached_property
    def traffic(self) -> Floats:
        """What each receives and sends, as measured, in bytes per second (domains x 2)."""
        uplink = self.host.uplink_bytes_per_second or ASSUMED_BYTES_PER_SECOND
        measured = [
            (
                max(domain.rx_bytes_per_second or 0.0, (domain.rx_ratio or 0.0) * uplink),
                max(domain.tx_bytes_per_second or 0.0, (domain.tx_ratio or 0.0) * uplink),
            )
            for domain in self.running
        ]
        return np.array(measured, dtype=np.float64).reshape(-1, 2)

    @cached_property
    def arrival(self) -> Floats:
        """What adds up where they come, at the upper end, in the group's units (domains x resources).

        For the CPU it is less than they want: on-off domains get into each other's way.
        """
        memory = np.array([domain.ordinary_bytes for domain in self.running], dtype=np.float64)
        cores, arriving = self.demands.cores * self.host.cpu_speed, memory * (1 + self.overhead_ratio)
        return np.column_stack((cores, arriving, self.traffic * (1 + TRAFFIC_DOUBT)))

    @cached_property
    def relief(self) -> Floats:
        """What leaving frees at the lower end, in the group's units (domains x resources)."""
        resident = np.array([_resident(domain) for domain in self.running], dtype=np.float64)
        used = self.demands.used * self.host.cpu_speed
        return np.column_stack((used, resident, self.traffic * (1 - TRAFFIC_DOUBT)))

    def arriving(self, rows: Sequence[int], host: Host) -> Demands:
        """What some of the domains want of another host's CPUs."""
        factor = host.cpu_speed / self.host.cpu_speed
        found = self._arriving.get((factor, *rows))
        if found is None:
            found = self._arriving[factor, *rows] = self.demands.only(rows).at_speed(factor)
        return found

    def load(self, present: Mask, arrivals: Sequence[Demands] = ()) -> Load:
        """The host's CPU load in each case. ``present``: which of its domains are there (cases x domains);
        ``arrivals``: others that came.

        Single cases are kept, since several steps need the same one.
        """
        case = (present.tobytes(), *map(id, arrivals))
        found = self._loads.get(case)
        if found is not None:
            return found[0]
        demands = self.demands.joined(arrivals) if arrivals else self.demands
        there = np.ones((len(present), len(demands)))
        there[:, : present.shape[1]] = present
        load = self._corrected(present, predict(self.host.cpus, self.own, demands, there))
        if len(present) == 1:
            # The arrivals are kept, so that no others get their ids.
            self._loads[case] = (load, tuple(arrivals))
        return load

    def keep(self, present: Mask, predicted: Load) -> None:
        """Keep what was predicted for ``present``, for which ``load`` will be called."""
        self._loads[present.tobytes(),] = (self._corrected(present, predicted), ())

    def _corrected(self, present: Mask, predicted: Load) -> Load:
        stays, goes = self.corrections
        ratio = np.minimum(np.maximum(predicted.ratio + (stays + present @ goes), 0.0), 1.0)
        return Load(ratio, self.noise + predicted.spread, predicted.wanted)


def predict_together(asked: Iterable[tuple[Residents, Mask]]) -> None:
    """Batch the predictions that ``Residents.load`` will be asked for, without arrivals. A speed-up only; results do
    not change.

    A batch is padded to its largest host, so hosts are grouped by size. Where much is asked of one host it is a batch
    by itself.
    """
    batch = list(asked)
    large: dict[int, list[tuple[Residents, Mask]]] = defaultdict(list)
    for residents, present in batch:
        large[residents.number].append((residents, present))
    for number, several in list(large.items()):
        if len(several) > 1 and sum(present.size for _, present in several) > _MOST_TOGETHER:
            _predict_at_once(several[0][0], [present for _, present in several])
        else:
            del large[number]
    few = [one for one in batch if one[1].size <= _MOST_TOGETHER and one[0].number not in large]
    few.sort(key=lambda one: (one[0].host.cpus, *one[1].shape))
    for cpus, alike in groupby(few, key=lambda one: one[0].host.cpus):
        while together := list(islice(alike, BATCH_HOSTS)):
            _predict_batch(cpus, together)


def _predict_at_once(residents: Residents, asked: Sequence[Mask]) -> None:
    there = np.concatenate(asked).astype(np.float64)
    predicted = predict(residents.host.cpus, residents.own, residents.demands, there)
    begin = 0
    for present in asked:
        cases = slice(begin, begin := begin + len(present))
        residents.keep(present, Load(predicted.ratio[cases], predicted.spread[cases], predicted.wanted[cases]))


def _predict_batch(cpus: int, asked: Sequence[tuple[Residents, Mask]]) -> None:
    there = np.zeros((len(asked), *np.max([present.shape for _, present in asked], axis=0)))
    for host, (_, present) in enumerate(asked):
        there[host, : len(present), : present.shape[1]] = present
    own = np.array([[residents.own] for residents, _ in asked])
    predicted = predict(cpus, own, Demands.stacked([residents.demands for residents, _ in asked]), there)
    for host, (residents, present) in enumerate(asked):
        cases = slice(len(present))
        rows = (predicted.ratio[host, cases], predicted.spread[host, cases], predicted.wanted[host, cases])
        residents.keep(present, Load(*rows))


def total(amounts: Floats, rows: Sequence[int]) -> Floats:
    """The sum of the domains' amounts (domains, or domains x resources) over some rows."""
    summed: Floats = amounts[rows[0]].copy() if len(rows) == 1 else amounts[list(rows)].sum(axis=0)
    return summed


def _resident(domain: Domain) -> int:
    """The ordinary memory that leaving frees at least, in bytes."""
    if domain.memory_resident_bytes is None:
        return domain.ordinary_bytes
    return min(domain.memory_resident_bytes, domain.ordinary_bytes)
