"""Migrations by post-copy: of domains that did not converge, where the configuration allows it (decision 60)."""

from __future__ import annotations

from dataclasses import replace

from virtpoise_balancer.model import Move, Snapshot

_WHY = (
    "it did not converge before, so after one pass it is switched to post-copy: lost if a host, QEMU or the network "
    "fails until the rest of its memory has arrived"
)


def with_post_copy(moves: tuple[Move, ...], snapshot: Snapshot) -> tuple[Move, ...]:
    """The moves, those by post-copy marked, in their reasons as well.

    Never with copied disks: a guest that ran before these had arrived could be lost with its data.
    """
    if not snapshot.post_copy:
        return moves
    never_converged = {one.uuid for one in snapshot.attempts if one.destination is None}
    return tuple(
        replace(move, post_copy=True).because(_WHY) if move.uuid in never_converged and not move.copies else move
        for move in moves
    )
