"""Faults of what measures: Prometheus and the exporters."""

from __future__ import annotations

from virtpoise_lab.campaign.faults.parts import Begin, Met, lasting, switched
from virtpoise_lab.campaign.run import Run


def _exporter(fault: str) -> Begin:
    def begin(run: Run, met: Met) -> None:
        host = run.random.choice([met.source, met.destination])
        run.note(f"{host}: exporter {fault}")
        run.server.exporters[host] = fault

    def end(run: Run, _met: Met) -> None:
        run.note("exporters are well")
        run.server.exporters.clear()

    return lasting(begin, end)


def _twofold(run: Run, met: Met, seconds: float) -> None:
    """Two targets have the name of one host, and the second one shows another host's figures."""
    host = run.random.choice([met.source, met.destination])
    run.note(f"{host}: a second target of this name")
    run.server.twofold[host] = met.bystander

    def end() -> None:
        run.note(f"{host}: one target again")
        run.server.twofold.clear()

    run.kernel.after(seconds, end)
    run.faulty_until(run.kernel.at + seconds)


OF_FIGURES: dict[str, Begin] = {
    "prometheus-killed": switched("server", "dead", True, False),
    "prometheus-slow": switched("server", "slow_seconds", 0.4, 0.0),
    "prometheus-stuck": switched("server", "slow_seconds", 30.0, 0.0),
    "prometheus-behind": switched("server", "behind_seconds", 3600.0, 0.0),
    "prometheus-garbage": switched("server", "garbage", True, False),
    "prometheus-blind": switched("server", "blind", True, False),
    "exporter-gone": _exporter("gone"),
    "exporter-stuck": _exporter("stuck"),
    "exporter-empty": _exporter("empty"),
    "exporter-miscounting": _exporter("miscounting"),
    "exporter-lying": _exporter("lying"),
    "exporter-twofold": _twofold,
}
