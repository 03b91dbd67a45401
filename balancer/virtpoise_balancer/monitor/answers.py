"""What a look keeps of Prometheus' answers: of each plain figure of domains its values, of the rest the series.

A group has ten times as many domains as hosts, and a dozen figures of each. So their labels are dropped as soon as they
are read, while Prometheus is still busy with the next query.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from virtpoise_balancer.monitor.client import QueryAnswer
from virtpoise_balancer.monitor.queries import BY_UPLINK, QUERIES
from virtpoise_balancer.monitor.replies import Series
from virtpoise_balancer.monitor.targets import AdmittedTargets, host_of

# A domain on a host: the names of the host and of the domain's uuid.
Key = tuple[str, str]
# What a domain receives or sends by a network interface of its host: whose, the interface, bytes per second.
Traffic = tuple[Key, str, float]

# The queries whose series hold more than one figure of a domain, or are counted by target.
_WITH_LABELS = frozenset({"domain_running", "domain_paused", "domain_placement", "domain_hugepages_bytes"})
FIGURES = frozenset(name for name in QUERIES if name.startswith("domain_")) - _WITH_LABELS - set(BY_UPLINK)


@dataclass(frozen=True, slots=True, kw_only=True)
class Extract:
    """What is kept of one answer: one of the three, and the warnings."""

    series: Sequence[Series] = ()
    figures: Mapping[Key, float] = field(default_factory=dict)
    traffic: Sequence[Traffic] = ()
    warnings: tuple[str, ...] = ()

    def of(self, hosts: Collection[str]) -> Extract:
        """What is of these hosts."""
        return Extract(
            series=[one for one in self.series if host_of(one) in hosts],
            figures={key: value for key, value in self.figures.items() if key[0] in hosts},
            traffic=[one for one in self.traffic if one[0][0] in hosts],
            warnings=self.warnings,
        )


@dataclass(frozen=True, slots=True)
class Keeper:
    """Keeps what belongs to the targets that are hosts. Several threads may use it."""

    targets: AdmittedTargets
    # Each key once: an answer makes its own, equal to those of the other answers.
    _keys: dict[Key, Key] = field(default_factory=dict)

    def keep(self, name: str, answer: QueryAnswer) -> Extract:
        """What the look needs of the answer. ``name``: of the query."""
        if name in FIGURES:
            return Extract(figures=self._figures(answer.series), warnings=answer.warnings)
        if name in BY_UPLINK:
            return Extract(traffic=self._traffic(answer.series), warnings=answer.warnings)
        return Extract(series=self.targets.of_hosts(answer.series), warnings=answer.warnings)

    def _figures(self, answer: Iterable[Series]) -> dict[Key, float]:
        names, once, found = self.targets.names, self._keys.setdefault, {}
        for one in answer:
            labels = one.labels
            host = names[labels.get("instance", "")]
            if host is not None:
                key = (host, labels.get("uuid", ""))
                found[once(key, key)] = one.samples[-1][1]
        return found

    def _traffic(self, answer: Iterable[Series]) -> list[Traffic]:
        names, once, found = self.targets.names, self._keys.setdefault, []
        for one in answer:
            labels = one.labels
            host = names[labels.get("instance", "")]
            if host is not None:
                key = (host, labels.get("uuid", ""))
                found.append((once(key, key), labels.get("uplink", ""), one.samples[-1][1]))
        return found


def by_device(uplinks: Iterable[Series], names: Mapping[str, str | None]) -> dict[tuple[str, str], float]:
    """The speed of each uplink in bytes per second, by host and device."""
    return {(names[one.labels["instance"]] or "", one.labels.get("device", "")): one.value for one in uplinks}


def uplink_figures(
    traffic: Iterable[Traffic], speeds: Mapping[tuple[str, str], float]
) -> tuple[dict[Key, float], dict[Key, float]]:
    """By domain, its bytes per second over all uplinks, and the sum of its parts of their speeds.

    An uplink of unknown speed has no part. As in PromQL, one whose speed is zero leaves the sum without a figure.
    """
    totals: dict[Key, float] = {}
    ratios: dict[Key, float] = {}
    odd: set[Key] = set()
    for key, uplink, value in traffic:
        totals[key] = totals.get(key, 0.0) + value
        speed = speeds.get((key[0], uplink))
        if speed:
            ratios[key] = ratios.get(key, 0.0) + value / speed
        elif speed is not None:
            odd.add(key)
    for key in odd:
        ratios.pop(key, None)
    return totals, ratios
