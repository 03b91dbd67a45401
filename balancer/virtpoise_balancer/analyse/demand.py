"""What domains want of the CPU, which is more than they get where their host is saturated.

A domain's vCPUs run for ``r`` cores and wait for a CPU for ``d`` cores (run-queue delay, the guest's steal time). Its
demand lies in [r, r + d]: it wants at least what it gets, and what neither runs nor waits wants nothing. Where in that
interval depends on what the guest does with time that it did not get. Two kinds of guests mark the ends
(docs/scoring.md has the measurements):

- *on and off* (a fixed rate): what is not run is lost. Its vCPUs are runnable for r + d of the time, contention or not.
- *catching up* (elastic): what is not run is run later. It runs for r cores wherever there is room.

``on_off`` weighs the two for each domain. Three hypotheses are compared for each host: all guests are on and off, all
catch up, or each may be either. The evidence is their histories, and whether the host is as busy as independent on-off
vCPUs would make it.

Where d is unknown, since no exporter reports it, the demand on a saturated host lies in [r, vCPUs] for a domain that
gets as much for each vCPU as any other there: only such a one is held back by its fair share. One that gets far less
leaves CPU time to the others, so it has what it wants. There is no evidence for either kind of guest, and all of the
interval counts as doubt.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from virtpoise_balancer.model import Domain

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

# A vCPU on a saturated host that is runnable for less than this share of time gets all it wants. One that always is may
# want much more.
_STARVED_FROM = 0.6
# The share of its waiting time for which a vCPU would be runnable without contention as well: if it is preempted just
# before it is done, it waits once more. 0.84 to 0.95 measured.
_OWN_DELAY = 0.87
# How far the same domain's cores differ from one window to the next when nothing has changed, per vCPU.
_JITTER_CORES = 0.015
# How much more time the same work takes under contention, since caches and clock speed are shared. 3 to 10 % measured.
_COMPANY_COST_RATIO = 0.1
# The likelihood that a domain's demand has changed since the recent past, relative to that it has not.
_CHANGED = 0.02
# log(idle share) measured over that expected of independent on-off vCPUs. Its mean on hosts whose guests are all on and
# off, of either kind, and all catching up; the standard deviation of single hosts; and the likelihood of any other
# value, relative to the mean.
_RATIOS = np.array((0.96, 0.93, 0.84))
_RATIO_DEVIATION = 0.045
_RATIO_OUTLIER = 0.03
# A smaller idle share is no evidence: guests of any kind fill a host that is full.
_LEAST_IDLE_RATIO = 0.015
# More runnable vCPUs than the mean plus this many standard deviations count as impossible: the probability is below one
# in a million.
_NEVER_DEVIATIONS = 5.0
# Less waiting than this, per CPU, is no evidence.
_DELAY_NOISE_CORES = 0.02


class Sums(NamedTuple):
    """What adds up over domains, in cores of the host where they run (domains, or cases)."""

    # How busy each keeps CPUs if it never waits.
    busy: Floats
    # The part of ``cores`` that is on and off, by how far it is taken for that.
    on_off: Floats
    # The part that catches up, likewise.
    catching_up: Floats
    # How far ``catching_up`` may be off, up or down.
    doubt: Floats
    # All of it if it is on and off.
    all_on_off: Floats
    # All of it if it catches up.
    all_catching_up: Floats


class _Column(IntEnum):
    """Where a property stands in the table of Demands. The fields of Sums follow, in their order."""

    USED = 0
    VCPUS = 1
    LOWER = 2
    CORES = 3
    UPPER = 4
    RUNNABLE = 5
    ON_OFF = 6


_FIRST_SUM = len(_Column)
_COLUMNS = _FIRST_SUM + len(Sums._fields)


@dataclass(frozen=True, slots=True)
class Demands:
    """What each domain wants, as named arrays with one entry a domain, in cores of the host where it runs.

    ``table``: their storage (domains x columns, with more axes before them if hosts are stacked). They are kept in one
    block, since the domains of a host are joined, cut and added up thousands of times for one plan.
    """

    table: Floats

    @classmethod
    def of(
        cls, used: Floats, vcpus: Floats, lower: Floats, cores: Floats, upper: Floats, runnable: Floats, on_off: Floats
    ) -> Demands:
        """The demands with these properties; the sums follow from them."""
        rest, cpus = 1 - on_off, runnable * vcpus
        on = on_off * cpus
        sums = Sums(
            busy=on + rest * np.minimum(cores, vcpus),
            on_off=on,
            catching_up=rest * cores,
            doubt=rest * (upper - lower) / 2,
            all_on_off=cpus,
            all_catching_up=cores,
        )
        table = np.empty((*used.shape, _COLUMNS))
        table[..., _Column.USED] = used
        table[..., _Column.VCPUS] = vcpus
        table[..., _Column.LOWER] = lower
        table[..., _Column.CORES] = cores
        table[..., _Column.UPPER] = upper
        table[..., _Column.RUNNABLE] = runnable
        table[..., _Column.ON_OFF] = on_off
        table[..., _FIRST_SUM:] = np.stack(sums, axis=-1)
        return cls(table)

    @classmethod
    def stacked(cls, hosts: Sequence[Demands]) -> Demands:
        """The demands of several hosts (hosts x domains); a host with fewer domains is filled up with some that want
        nothing.
        """
        table = np.zeros((len(hosts), max(map(len, hosts)), _COLUMNS))
        table[..., _Column.VCPUS] = 1
        for host, demands in enumerate(hosts):
            table[host, : len(demands)] = demands.table
        return cls(table)

    def __len__(self) -> int:
        """The number of domains."""
        return len(self.table)

    @property
    def used(self) -> Floats:
        """What it runs now, QEMU's own threads included."""
        return self.table[..., _Column.USED]

    @property
    def vcpus(self) -> Floats:
        """The number of its vCPUs."""
        return self.table[..., _Column.VCPUS]

    @property
    def lower(self) -> Floats:
        """The lower end of what it would run alone if it catches up."""
        return self.table[..., _Column.LOWER]

    @property
    def cores(self) -> Floats:
        """What it would run alone if it catches up; between ``lower`` and ``upper``."""
        return self.table[..., _Column.CORES]

    @property
    def upper(self) -> Floats:
        """The upper end of what it would run alone if it catches up."""
        return self.table[..., _Column.UPPER]

    @property
    def runnable(self) -> Floats:
        """The share of time for which each of its vCPUs is runnable if it is on and off, 0..1."""
        return self.table[..., _Column.RUNNABLE]

    @property
    def on_off(self) -> Floats:
        """How far it is taken for a domain that is on and off, 0..1."""
        return self.table[..., _Column.ON_OFF]

    @property
    def sums(self) -> Sums:
        """What adds up over domains, one entry a domain."""
        return _sums(self.table[..., _FIRST_SUM:])

    def added(self, there: Floats) -> Sums:
        """The sums over the domains of each row of ``there`` (cases x domains, 1 or 0), one entry a case."""
        return _sums(there @ self.table[..., _FIRST_SUM:])

    def at_speed(self, factor: float) -> Demands:
        """The demand where a CPU is ``factor`` times as fast.

        Work shrinks with it; the time that a vCPU is runnable does not.
        """
        if factor == 1:
            return self
        most = np.maximum(self.vcpus, self.used)  # with QEMU's own threads a domain can use more than its vCPUs
        lower, cores, upper = (np.minimum(work / factor, most) for work in (self.lower, self.cores, self.upper))
        return Demands.of(self.used, self.vcpus, lower, cores, upper, self.runnable, self.on_off)

    def joined(self, others: Sequence[Demands]) -> Demands:
        """These domains, and the others after them."""
        return Demands(np.concatenate((self.table, *[other.table for other in others])))

    def only(self, rows: Sequence[int]) -> Demands:
        """Some of the domains."""
        return Demands(self.table[list(rows)])


def _sums(block: Floats) -> Sums:
    """The last axis of a block by name."""
    return Sums._make(block.transpose(block.ndim - 1, *range(block.ndim - 1)))


def estimate(hosts: Sequence[Sequence[Domain]], *, cpus: int, load: Floats, saturated: Mask) -> Demands:
    """The demand of the running domains of hosts with ``cpus`` CPUs each, one host's after the other's.

    ``load``, ``saturated``: each host's present load (0..1), and whether it counts as saturated.
    """
    measured = [
        (
            domain.cpu_cores,
            np.nan if domain.cpu_delay_cores is None else domain.cpu_delay_cores,
            domain.vcpus,
            np.nan if domain.cpu_cores_unsaturated is None else domain.cpu_cores_unsaturated,
            domain.cpu_delay_cores_unsaturated or 0.0,
        )
        for host in hosts
        for domain in host
    ]
    run, delay, vcpus, past_run, past_delay = np.array(measured, dtype=np.float64).reshape(-1, 5).T
    there = residence([len(host) for host in hosts])
    full = saturated @ there > 0
    unknown = np.isnan(delay)
    delay = np.where(unknown, 0.0, delay)
    most = np.maximum(run, np.where(unknown, vcpus, np.minimum(run + delay, vcpus)))
    runnable = np.where(unknown, _of_most(run / vcpus, there), (run + delay) / vcpus)
    starved = np.clip((runnable - _STARVED_FROM) / (1 - _STARVED_FROM), 0.0, 1.0)
    upper = run + starved * (most - run)
    # False for NaN. One that now runs more than then wants more than then.
    remembered = past_run * (1 + _COMPANY_COST_RATIO) >= run - _JITTER_CORES * vcpus
    alone = np.clip(np.where(remembered, past_run, run), run, most)
    lower = np.where(full & remembered, (run + alone) / 2, run)
    upper = np.where(full, np.where(remembered, (alone + np.maximum(alone, upper)) / 2, upper), run)
    cores = np.where(full & remembered, alone, (lower + upper) / 2)
    known = there @ unknown == 0
    known_past = known & (there @ np.isnan(past_run) == 0)
    past = (np.nan_to_num(past_run), past_delay, np.where(known_past, 1.0, np.nan))
    log_likelihoods = _log_host(cpus, vcpus, there, ((run, delay, np.where(known, load, np.nan)), past))
    history = np.where(unknown, 0.0, _log_history(run, delay, past_run, past_delay, vcpus, full))
    on_off = np.where(unknown, 0.0, _on_off(log_likelihoods, history, there))
    return Demands.of(run, vcpus, lower, cores, upper, _runnable(run, delay, vcpus), on_off)


def residence(counts: Sequence[int]) -> Floats:
    """Which domains are on which host, 1 or 0 (hosts x domains).

    ``counts``: the number of domains of each host; they come one host's after the other's.
    """
    hosts = np.arange(len(counts))
    there: Floats = (np.repeat(hosts, counts) == hosts[:, np.newaxis]).astype(np.float64)
    return there


def _of_most(share: Floats, there: Floats) -> Floats:
    """Each domain's share of the CPU time of its vCPUs, relative to the largest on its host (domains)."""
    largest = (there * share).max(axis=1, initial=0.0) @ there
    relative: Floats = share / np.where(largest, largest, 1.0)
    return relative


def _runnable(run: Floats, delay: Floats, vcpus: Floats) -> Floats:
    runnable: Floats = np.minimum((run + _OWN_DELAY * delay) / vcpus, 1.0)
    return runnable


def _log_host(cpus: int, vcpus: Floats, there: Floats, readings: Sequence[tuple[Floats, Floats, Floats]]) -> Floats:
    """Log likelihoods of each host's load if its guests are all on and off, each of any kind, or all catching up (hosts
    x 3).

    ``readings``: what domains ran and waited, and an upper bound of each host's load (NaN: unknown), now and in the
    past. All 0 without evidence.
    """
    found, expected, waiting = np.zeros((3, len(there)))
    for run, delay, load in readings:
        idle = 1 - np.minimum(load, there @ run / cpus)
        free = 1 - busy_cpus(cpus, _runnable(run, delay, vcpus), vcpus, there) / cpus
        # False for NaN
        evident = (idle >= _LEAST_IDLE_RATIO) & (free >= _LEAST_IDLE_RATIO) & (free <= 1 - _LEAST_IDLE_RATIO)
        found += np.log(np.where(evident, idle, 1.0))
        expected += np.log(np.where(evident, free, 1.0))
        waiting += np.where(evident, there @ delay, 0.0)
    ratio = found / np.where(expected, expected, 1.0)
    away = (ratio[:, np.newaxis] - _RATIOS) / _RATIO_DEVIATION
    # Beyond the ends nothing is likelier.
    away[:, 0] = np.minimum(away[:, 0], 0.0)
    away[:, -1] = np.maximum(away[:, -1], 0.0)
    sure = waiting / (waiting + _DELAY_NOISE_CORES * cpus)
    likely: Floats = sure[:, np.newaxis] * np.log(np.exp(-(away**2) / 2) + _RATIO_OUTLIER)
    return likely


def _log_history(run: Floats, delay: Floats, past_run: Floats, past_delay: Floats, vcpus: Floats, full: Mask) -> Floats:
    """The log likelihood ratio of each domain's history: on and off over catching up (domains). 0 without a history.

    As contention changes, run + delay stays constant (on and off), or run does (catching up). ``full``: whether its
    host is saturated.
    """
    sigma = _JITTER_CORES * vcpus
    moved = (run + delay - past_run - past_delay) / sigma
    changed = (run - past_run) / sigma
    # On a full host one that catches up may run less than it did, but then it has work left over and is always
    # runnable.
    idle = np.maximum(vcpus - run - delay, 0.0) / (2 * sigma)
    owed = np.where(changed < -1, np.minimum(idle, -changed), np.maximum(changed, 0.0))
    changed = np.where(full, owed, changed)
    # Or its demand has changed, and the history is no evidence.
    ratio = np.log(np.exp(-(moved**2) / 2) + _CHANGED) - np.log(np.exp(-(changed**2) / 2) + _CHANGED)
    history: Floats = np.where(np.isnan(ratio), 0.0, ratio)
    return history


def _on_off(log_likelihoods: Floats, history: Floats, there: Floats) -> Floats:
    """How far each domain is taken for on-off, 0..1 (domains).

    By Bayes over the three hypotheses of a host, which are equally likely a priori.
    """
    alone = 1 / (1 + np.exp(-history))  # what its own history makes of one that may be either
    all_of_them, each = there @ history, there @ (np.logaddexp(history, 0.0) - math.log(2))
    log_posterior = log_likelihoods + np.column_stack((all_of_them, each, np.zeros(len(there))))
    chances = np.exp(log_posterior - log_posterior.max(axis=1, keepdims=True))
    chances /= chances.sum(axis=1, keepdims=True)
    all_chance, each_chance, _ = chances.T @ there
    on_off: Floats = all_chance + each_chance * alone
    return on_off


def busy_cpus(cpus: int, probability: Floats, vcpus: Floats, there: Floats) -> Floats:
    """The expected number of busy CPUs, E[min(CPUs, N)], with N the number of runnable vCPUs (cases).

    N is Poisson binomial: each vCPU of a domain is runnable with the domain's ``probability``. ``there``: which domains
    there are, 1 or 0 (cases x domains); more axes may come before these, for hosts with domains of their own. Source:
    the characteristic function of N, whose Fourier transform is its distribution (Hong, "On computing the distribution
    function for the Poisson binomial distribution", 2013). Where contention is many standard deviations away, the
    result is the mean of N.
    """
    runnable = probability * vcpus
    added = there @ np.stack((runnable, runnable * (1 - probability), vcpus), axis=-1)
    mean: Floats = added[..., 0]
    never = mean + _NEVER_DEVIATIONS * np.sqrt(added[..., 1]) < cpus
    if never.all():
        return mean
    most = int(added[..., 2].max())
    if most <= cpus:
        return mean
    turn_cos, turn_sin, sizes, shifts, always = _frequencies(cpus, most)
    chance, number = probability[..., np.newaxis], vcpus[..., np.newaxis]
    # In place: these arrays (domains x frequencies) are the largest of a plan.
    real, imaginary = chance * turn_cos, chance * turn_sin
    real += 1
    angle = np.arctan2(imaginary, real)
    angle *= number
    real *= real
    imaginary *= imaginary
    real += imaginary
    logarithm = np.log(real, out=real)
    logarithm *= number / 2
    busy = cpus - always - (np.exp(there @ logarithm) * np.cos(there @ angle + shifts)) @ sizes
    return np.where(never, mean, busy)


@lru_cache(maxsize=256)
def _frequencies(cpus: int, most: int) -> tuple[Floats, Floats, Floats, Floats, float]:
    """The tables of ``busy_cpus`` for some CPUs and at most ``most`` vCPUs, one entry a frequency.

    The factor of one vCPU less 1 (real and imaginary part), what the frequency adds to the number of free CPUs
    (amplitude and phase), and what frequency 0 adds.

    The number of points is odd and larger than the number of vCPUs. So no frequency is half a turn, where the logarithm
    may not exist, and each but the first has its mirror image.
    """
    points = most + 1 + most % 2
    turns = np.exp(2j * np.pi * np.arange(1, points // 2 + 1) / points)
    free = np.arange(cpus, 0, -1, dtype=np.float64)
    weights = 2 * (free @ np.conj(turns) ** np.arange(cpus)[:, np.newaxis]) / points
    return turns.real - 1, turns.imag, np.abs(weights), np.angle(weights), float(free.sum()) / points
