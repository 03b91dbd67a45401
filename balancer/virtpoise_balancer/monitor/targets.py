"""Which of Prometheus' targets are hosts. The rest is refused, with a reason, and its figures are left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from virtpoise_balancer.hosts import NotAHost, of_instance
from virtpoise_balancer.monitor.replies import Series
from virtpoise_balancer.visible import shown

# How many refused targets are named; the others are counted.
_MOST_NAMED = 50
# The most labels of a target. A host with more is unknown: left out, one of them could be what keeps domains off it.
MOST_LABELS = 64
_LONGEST_LABEL = 128
_OF_PROMETHEUS = frozenset({"__name__", "instance", "job"})
_NOT_ADMITTED = "not in libvirt.hosts, and does not fit libvirt.pattern and libvirt.uri"


class TargetRefusal(StrEnum):
    """Why a target is not taken for a host."""

    NOT_A_HOST = "not_a_host"
    NOT_ADMITTED = "not_admitted"


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedTarget:
    """A target that is not taken for a host. ``instance``: its label as it can be shown (printable ASCII, cut)."""

    instance: str
    reason: TargetRefusal
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedTargets:
    """How many targets were refused by reason, and the first of them by their label."""

    counts: Mapping[TargetRefusal, int] = field(default_factory=dict)
    named: tuple[RefusedTarget, ...] = ()

    def __str__(self) -> str:
        """The counts and the first labels in one line, for the log; empty without any."""
        names = ", ".join(f"'{one.instance}' ({one.why})" for one in self.named)
        more = sum(self.counts.values()) - len(self.named)
        return f"{names} and {more} more" if more else names


def host_of(series: Series) -> str:
    """The name of the host that a series belongs to. ``AdmittedTargets`` must have admitted its target."""
    return of_instance(series.labels.get("instance", ""))


def labels_of(series: Series) -> dict[str, str]:
    """The target's labels that rules may name, such as a rack or a room. What cannot be shown is left out."""
    return {
        name: value
        for name, value in sorted(series.labels.items())[:MOST_LABELS]
        if name not in _OF_PROMETHEUS
        and all(len(part) <= _LONGEST_LABEL and shown(part) == part for part in (name, value))
    }


class AdmittedTargets:
    """The targets of one look at Prometheus. ``admits``: whether the configuration lets a host of this name in.

    ``names``: the host of each instance; None where the target is refused.
    """

    def __init__(self, admits: Callable[[str], bool]) -> None:
        self._refused: dict[str, RefusedTarget] = {}
        self.names: Mapping[str, str | None] = _Names(admits, self._refused)

    def of_hosts(self, answer: Iterable[Series]) -> list[Series]:
        """The series of targets that are hosts: ``of_instance`` gives the name of each."""
        names = self.names
        return [series for series in answer if names[series.labels.get("instance", "")] is not None]

    @property
    def refused(self) -> RefusedTargets:
        """The targets that were refused since the look began."""
        found = sorted(self._refused.values(), key=lambda one: (one.reason, one.instance))
        return RefusedTargets(counts=Counter(one.reason for one in found), named=tuple(found[:_MOST_NAMED]))


class _Names(dict[str, str | None]):
    """The host of each instance, judged at its first use. Several threads may use it."""

    def __init__(self, admits: Callable[[str], bool], refused: dict[str, RefusedTarget]) -> None:
        super().__init__()
        self._admits, self._refused = admits, refused

    def __missing__(self, instance: str) -> str | None:
        try:
            name = of_instance(instance)
        except NotAHost as error:
            reason, why = TargetRefusal.NOT_A_HOST, str(error)
        else:
            if self._admits(name):
                self[instance] = name
                return name
            reason, why = TargetRefusal.NOT_ADMITTED, _NOT_ADMITTED
        self._refused[instance] = RefusedTarget(instance=shown(instance), reason=reason, why=why)
        self[instance] = None
        return None
