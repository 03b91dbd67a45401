"""Remembers the hosts' samples from one whole look to the next, which then asks for the newest alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Runs = Mapping[str, tuple[float, ...]]

# How many known samples are queried again: Prometheus may complete a step a little late.
_AGAIN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownSamples:
    """The samples of a look by host, without a gap up to the step of this number, oldest first. ``query``: theirs."""

    query: str
    step: int
    runs: Runs


@dataclass(frozen=True, slots=True, kw_only=True)
class Tail:
    """The newest ``asked`` samples of a look at a step. ``before``: the look that has those before them, None where all
    are asked for.
    """

    query: str
    step: int
    asked: int
    before: KnownSamples | None

    def joined(self, runs: Runs, samples: int) -> Runs:
        """The ``samples`` newest of each host without a gap. ``runs``: those of the tail."""
        if self.before is None:
            return runs
        again, old = self.asked - (self.step - self.before.step), self.before.runs
        return {
            host: (*old.get(host, ())[:-again], *run)[-samples:] if len(run) == self.asked else run
            for host, run in runs.items()
        }


@dataclass(frozen=True, slots=True)
class RecentSamples:
    """The newest whole look at each query. Several threads may use it."""

    _known: dict[str, KnownSamples] = field(default_factory=dict)

    def tail(self, name: str, query: str, step: int, samples: int) -> Tail:
        """What must be asked for at this step. Once in ``samples`` steps it is all, so that what came late is found."""
        before = self._known.get(name)
        passed = step - before.step if before is not None and before.query == query else samples
        if not 0 <= passed <= samples - 2 * _AGAIN or step % samples == 0:
            return Tail(query=query, step=step, asked=samples, before=None)
        return Tail(query=query, step=step, asked=passed + _AGAIN, before=before)

    def keep(self, name: str, tail: Tail, runs: Runs) -> None:
        """Remember all samples of a look. ``tail``: what was asked for it."""
        self._known[name] = KnownSamples(query=tail.query, step=tail.step, runs=runs)
