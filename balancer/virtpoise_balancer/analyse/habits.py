"""Keeps what domains usually use of a CPU: running means over a minute to four hours, and how far each is usually off.

A mean over T counts what was read a time t ago by exp(-t / T). All means of all domains are brought up to date at once,
in constant space, so that a cycle spends a few milliseconds on a hundred thousand domains.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray

from virtpoise_balancer.analyse.demand import Floats, Mask
from virtpoise_balancer.model import SCALES_SECONDS, DomainState, Habit, Habits, Snapshot

SCALES = np.array(SCALES_SECONDS)
# How long a deviation is remembered (scales): the longest scale at least, and some times its own.
_MEMORIES = np.maximum(SCALES[-1], 16 * SCALES)
# What is further off than this many usual deviations does not belong to what is usual.
UNUSUAL = 5.0
# The digits after the point of cores and seconds in a snapshot.
_DIGITS = 4
# The least usual deviation, in cores: less is noise of the measurement.
LEAST_DEVIATION_CORES = 0.01
# A domain that was not seen for longer is forgotten.
_FORGOTTEN_SECONDS = 3600.0
# An excursion shows on the first scales as it begins. What only the others show is what is left of an earlier one.
_FRESH = 2
# How often a scale must have passed until it is known how far a mean over it usually is off.
_TIMES = 4
# A domain that was watched for less has no habit: what it uses now counts as lasting.
LEAST_AGE_SECONDS = _TIMES * SCALES[0]
# How long an excursion is remembered.
EXCURSIONS_COUNT_SECONDS = 7 * 86400.0
_SHORTER = np.array([0.0, *SCALES[:-1]])
# What is kept of a domain, by row: for how long it was watched; when it was seen last, and when its excursion began
# (Unix seconds); its longest mean before that, how far off it was since, the last scale that it reached, and what it
# used more (core seconds). Of the peaks that have ended, for how long they lasted, and what was used more in them.
_AGE, _SEEN, _SINCE, _BEFORE, _SIZE, _REACHED, _MORE, _PEAKS, _PEAKS_MORE = range(9)
_MEANS, _VARIANCES = slice(9, 9 + len(SCALES)), slice(9 + len(SCALES), 9 + 2 * len(SCALES))
_ROWS = 9 + 2 * len(SCALES)


def known_scales(age: Floats) -> Mask:
    """Whether a scale has passed often enough that its usual deviation is known (domains x scales).

    ``age``: domains x 1, in seconds.
    """
    known: Mask = age >= _TIMES * SCALES
    return known


@dataclass(frozen=True, slots=True)
class Readings:
    """What some domains use, in cores of a CPU of speed 1, and the numbers of their hosts (domains)."""

    uuids: tuple[str, ...]
    hosts: NDArray[np.intp]
    cores: Floats


class HabitBook:
    """What is known of each domain, and how long excursions lasted: times in which one was far off what is usual.

    ``update`` with each look, in the order of time. ``time``: of the newest one, in Unix seconds; 0 before any.
    """

    def __init__(self) -> None:
        self._uuids: tuple[str, ...] = ()
        self._row: dict[str, int] = {}
        # One column a domain, in the order of the uuids.
        self._table = np.empty((_ROWS, 0))
        # By scale, how many excursions lasted as long as the next shorter one, and how many of them ended within it.
        self._lasted, self._ended = np.zeros((2, len(SCALES)))
        # By scale, the mean square of what the domains of a host are off together, and the mean sum of their squares.
        self._together, self._alone = np.zeros((2, len(SCALES)))
        self._age = 0.0
        self.time = 0.0

    def update(self, now: float, read: Readings, reading_seconds: float) -> None:
        """Take readings in, each over ``reading_seconds`` until ``now`` (Unix seconds).

        A reading that is no newer than the last one is left out.
        """
        kept = math.exp(-max(now - self.time, 0.0) / EXCURSIONS_COUNT_SECONDS)
        self._lasted *= kept
        self._ended *= kept
        self._table[_PEAKS : _PEAKS_MORE + 1] *= kept
        self.time = max(now, self.time)
        rows, hosts, cores = self._rows(now, read.uuids), read.hosts, read.cores
        table = self._table[:, rows]
        passed = np.minimum(now - table[_SEEN], reading_seconds)
        new = passed > 0
        rows, hosts, table, passed, cores = rows[new], hosts[new], table[:, new], passed[new], cores[new]
        if not len(rows):
            return
        table[_AGE] += passed
        age, means, variances = table[_AGE], table[_MEANS], table[_VARIANCES]
        usual = means[-1].copy()
        whole = passed / age  # the gain of a plain mean, as long as a domain is younger than a scale
        means += np.maximum(-np.expm1(-passed / SCALES[:, np.newaxis]), whole) * (cores - means)
        apart = np.vstack((cores, means[:-1])) - means
        off = np.square(apart)
        most = UNUSUAL**2 * np.maximum(variances, LEAST_DEVIATION_CORES**2)
        unusual = (off > most) & known_scales(age[:, np.newaxis]).T
        off = np.where(age < SCALES[0], off, np.minimum(off, most))
        self._compare(hosts, np.sign(apart) * np.sqrt(off), float(passed.max()))
        variances += np.maximum(-np.expm1(-passed / _MEMORIES[:, np.newaxis]), whole) * (off - variances)
        table[_SEEN] = now
        self._follow(now, table, passed, cores, usual, unusual)
        self._table[:, rows] = table

    def _compare(self, hosts: NDArray[np.intp], apart: Floats, passed: float) -> None:
        """Whether the domains of a host go up and down together. ``apart``: scales x domains."""
        self._age += passed
        gain = np.maximum(-np.expm1(-passed / _MEMORIES), passed / self._age)
        sums = np.array([np.bincount(hosts, weights=of_scale) for of_scale in apart])
        self._together += gain * (np.square(sums).sum(axis=1) - self._together)
        self._alone += gain * (np.square(apart).sum(axis=1) - self._alone)

    def _follow(self, now: float, table: Floats, passed: Floats, cores: Floats, usual: Floats, unusual: Mask) -> None:
        """Begin, go on with and end excursions. One that lasts longer than the longest scale is what is usual now.

        A *peak* is one in which more was used than before.

        While means still show an excursion that is over, another one is far off what was usual before it.
        """
        running, shown = ~np.isnan(table[_SINCE]), table[_SIZE] > 0
        before = np.where(shown, table[_BEFORE], usual)
        off, lasted = np.abs(cores - before), now - table[_SINCE]
        far = off >= table[_SIZE] / 2
        for at, (scale, shorter) in enumerate(zip(SCALES, _SHORTER, strict=True)):
            reached = running & (lasted >= shorter) & (table[_REACHED] < at)
            self._lasted[at] += reached.sum()
            self._ended[at] += (running & ~far & (lasted >= shorter) & (lasted < scale)).sum()
            table[_REACHED] = np.where(reached, at, table[_REACHED])
        peaks = running & ~far & (lasted < SCALES[-1]) & (table[_MORE] > 0)
        table[_PEAKS] += np.where(peaks, lasted, 0.0)
        table[_PEAKS_MORE] += np.where(peaks, table[_MORE], 0.0)
        shows = unusual.any(axis=0)
        begins, stays = unusual[:_FRESH].any(axis=0) & ~running & far, running & far & (lasted < SCALES[-1])
        table[_SINCE] = np.where(begins, now, np.where(stays, table[_SINCE], np.nan))
        table[_MORE] = np.where(begins | stays, np.where(stays, table[_MORE], 0.0) + passed * (cores - before), 0.0)
        table[_REACHED] = np.where(begins, -1, table[_REACHED])
        table[_BEFORE] = before
        kept = begins | stays | (shown & shows & ~(running & far))
        table[_SIZE] = np.where(kept, np.maximum(table[_SIZE], np.where(begins | stays, off, 0.0)), 0.0)

    def _rows(self, now: float, uuids: tuple[str, ...]) -> NDArray[np.intp]:
        """The columns of these domains; new ones are added, those that were not seen for long are left out."""
        if uuids == self._uuids:
            return np.arange(len(uuids))
        if any(uuid not in self._row for uuid in uuids):
            asked, seen = set(uuids), self._table[_SEEN].tolist()
            gone = [
                uuid
                for uuid, at in zip(self._uuids, seen, strict=True)
                if uuid not in asked and now - at < _FORGOTTEN_SECONDS
            ]
            self._arrange((*uuids, *gone))
        return np.fromiter((self._row[uuid] for uuid in uuids), np.intp, len(uuids))

    def _arrange(self, uuids: tuple[str, ...]) -> None:
        before = np.fromiter((self._row.get(uuid, -1) for uuid in uuids), np.intp, len(uuids))
        table = np.zeros((_ROWS, len(uuids)))
        table[_SEEN], table[_SINCE] = -np.inf, np.nan
        table[:, before >= 0] = self._table[:, before[before >= 0]]
        self._uuids, self._table, self._row = uuids, table, {uuid: at for at, uuid in enumerate(uuids)}

    def habits(self, only: Iterable[str] | None = None) -> Habits:
        """The habits of all domains, as a snapshot carries them, or of those with these uuids."""
        uuids, chosen = self._uuids, self._table
        if only is not None:
            uuids = tuple(uuid for uuid in only if uuid in self._row)
            chosen = chosen[:, [self._row[uuid] for uuid in uuids]]
        table = chosen.round(_DIGITS)  # what is stored with each plan is not made of noise
        excursions = self.time - table[_SINCE]
        rows = zip(
            uuids,
            table[_AGE].tolist(),
            table[_MEANS].T.tolist(),
            np.sqrt(chosen[_VARIANCES]).round(_DIGITS).T.tolist(),
            excursions.tolist(),
            table[_BEFORE].tolist(),
            table[_PEAKS].tolist(),
            (chosen[_PEAKS_MORE] / np.maximum(chosen[_PEAKS], 1e-9)).round(_DIGITS).tolist(),
            strict=True,
        )
        peaks, more, ages = self._table[_PEAKS], self._table[_PEAKS_MORE], self._table[_AGE].round(_DIGITS)
        watched = EXCURSIONS_COUNT_SECONDS * -np.expm1(-ages / EXCURSIONS_COUNT_SECONDS)
        # One that lasts for good counts beside those that were seen: nothing is certain to pass.
        ended = self._ended / (self._lasted + 1)
        return Habits(
            of_domains={
                uuid: Habit(
                    age_seconds=age,
                    means=tuple(means),
                    deviations=tuple(off),
                    **({} if math.isnan(since) else {"excursion_seconds": max(since, 0.0), "before_cores": before}),
                    **({"peak_seconds": peaked, "peak_cores": height} if peaked else {}),
                )
                for uuid, age, means, off, since, before, peaked, height in rows
            },
            ended_ratio=tuple(ended.tolist()),
            peak_ratio=min(float(peaks.sum() / max(watched.sum(), 1e-9)), 1.0),
            peak_cores=float(more.sum() / max(peaks.sum(), 1e-9)),
            together_ratio=tuple(np.clip(self._together / np.maximum(self._alone, 1e-12), 1.0, 1e6).tolist()),
        )


def readings(snapshot: Snapshot) -> Readings:
    """What the running domains of known hosts use now."""
    number = {host.name: at for at, host in enumerate(snapshot.hosts) if host.known}
    running = DomainState.RUNNING
    domains = [one for one in snapshot.domains if one.state is running and one.host in number]
    hosts = np.fromiter((number[one.host] for one in domains), np.intp, len(domains))
    cores = np.fromiter(map(attrgetter("cpu_cores"), domains), np.float64, len(domains))
    speeds = np.array([host.cpu_speed for host in snapshot.hosts])
    return Readings(tuple(one.uuid for one in domains), hosts, cores * speeds[hosts] if len(domains) else cores)
