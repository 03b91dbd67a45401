"""Logs what changed from one cycle to the next: hosts that became unknown or fell silent, hosts that are back, refused
targets, the brake.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import structlog

from virtpoise_balancer.analyse.brake import Brake
from virtpoise_balancer.model import UnknownKind
from virtpoise_balancer.monitor.observe import Observation
from virtpoise_balancer.monitor.targets import RefusedTargets

log = structlog.get_logger()

_MOST_LINES = 20


@dataclass(slots=True)
class LoggedChanges:
    """What was logged so far, so that each change is logged once."""

    _unknown: dict[str, UnknownKind] = field(default_factory=dict)
    _silent: frozenset[str] = frozenset()
    _refused: RefusedTargets = field(default_factory=RefusedTargets)
    _brake: Brake | None = None

    def report(self, seen: Observation | None, silent: Mapping[str, str]) -> None:
        """Log the changes since the last call. ``seen``: None if the look failed. ``silent``: why, by host."""
        _lines("a host's libvirt does not answer", {host: silent[host] for host in silent.keys() - self._silent})
        _lines("a host's libvirt answers again", dict.fromkeys(self._silent - silent.keys(), ""))
        self._silent = frozenset(silent)
        if seen is None:
            return
        self._report_refused(seen.refused)
        snapshot = seen.snapshot
        # A silent host was just reported.
        unknown = {
            host.name: why
            for host in snapshot.hosts
            if (why := host.why_unknown) is not None and why.kind is not UnknownKind.SILENT
        }
        new = {host: why.text for host, why in unknown.items() if self._unknown.get(host) is not why.kind}
        _lines("a host is unknown", new)
        _lines(
            "a host is known again",
            dict.fromkeys({h.name for h in snapshot.hosts if h.known} & self._unknown.keys(), ""),
        )
        self._unknown = {host: why.kind for host, why in unknown.items()}

    def report_brake(self, brake: Brake | None) -> None:
        """Log once that the brake is on, and that it is off again. ``brake``: the one that is on."""
        if brake is not None and brake != self._brake:
            log.warning("the brake is on: moves are only recommended", cause=brake.cause.value, why=brake.why)
        elif brake is None and self._brake is not None:
            log.info("the brake is off")
        self._brake = brake

    def _report_refused(self, refused: RefusedTargets) -> None:
        if refused == self._refused:
            return
        self._refused = refused
        if refused.counts:
            log.warning("targets are refused: they are not taken for hosts", targets=str(refused))
        else:
            log.info("no target is refused any more")


def _lines(what: str, hosts: Mapping[str, str]) -> None:
    """One line a host; ``hosts``: why, or empty for good news."""
    for host in sorted(hosts)[:_MOST_LINES]:
        if hosts[host]:
            log.warning(what, host=host, why=hosts[host])
        else:
            log.info(what, host=host)
    if len(hosts) > _MOST_LINES:
        log.warning(f"{what}: this goes for others, too", hosts=len(hosts) - _MOST_LINES)
