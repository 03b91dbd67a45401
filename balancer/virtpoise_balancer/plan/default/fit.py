"""Whether a planned move still fits, as things are now, by the rules that plans are made by."""

from __future__ import annotations

from virtpoise_balancer.model import Move, Policy, Refusal, Snapshot
from virtpoise_balancer.plan.default.candidates import candidate_of, held
from virtpoise_balancer.plan.default.group import Group
from virtpoise_balancer.plan.default.trial import Trial
from virtpoise_balancer.plan.default.why_not import check_host


def refusal(snapshot: Snapshot, policy: Policy, move: Move) -> Refusal | None:
    """Why the domain would not be moved to this destination now, or None.

    Both hosts are known, and the domain runs on the source. The snapshot needs only these two, and the hosts from which
    other domains are on their way to the destination. Of a bundle all that is still on the source must fit.
    """
    group = Group(snapshot, policy)
    residents = group.residents(group.index[move.source])
    running = residents.running
    bundle = group.rules.bundle_of(move.uuid)
    rows = [row for row, one in enumerate(running) if one.uuid in bundle and not residents.leaving[row]]
    stays = next((why for row in rows if (why := held(running[row], group, rested=False))), None)
    if stays is not None:
        return stays
    trial = Trial(group, (), ~group.takers)
    found = check_host(trial, candidate_of(group, residents, rows), group.index[move.destination])
    if found.reason is None:
        return None
    return Refusal(domain=move.domain, uuid=move.uuid, host=found.host, reason=found.reason, detail=found.detail)
