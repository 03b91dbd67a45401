"""Migrations by post-copy: of domains that did not converge alone, and only where the configuration allows it."""

from dataclasses import replace

import pytest

from builders import GIB, domain, group, host, thesis_policy
from virtpoise_balancer.formats import read_snapshot, write_snapshot
from virtpoise_balancer.model import DiskCopy, Domain, FailedAttempts, Move, Policy, Snapshot, Trigger
from virtpoise_balancer.plan import plan

POLICY = Policy(cpu=Trigger(threshold=0.8, consecutive=2))
BOTH = pytest.mark.parametrize("policy", [POLICY, thesis_policy(0.8)], ids=lambda policy: policy.strategy)
SLOW = FailedAttempts(uuid="uuid-of-a", destination=None, failures=1, failed_at=0.0, why="it does not converge")
DISK = DiskCopy(device="vda", path="/srv/vda", format="raw", capacity_bytes=20 * GIB, stored_bytes=10 * GIB)


def seen(one: Domain, *attempts: FailedAttempts, post_copy: bool = True) -> Snapshot:
    found = group(host("h1", 0.9, 0.9), host("h2", 0.1, 0.1), one, time=5000.0)
    return replace(found, attempts=attempts, post_copy=post_copy)


def only(snapshot: Snapshot, policy: Policy = POLICY) -> Move:
    (move,) = plan(snapshot, policy).moves
    return move


@BOTH
def test_a_domain_that_did_not_converge_is_migrated_by_post_copy_and_the_reason_says_what_that_risks(
    policy: Policy,
) -> None:
    move = only(seen(domain("a", "h1", 3.0), SLOW), policy)
    assert move.post_copy
    assert "switched to post-copy: lost if a host, QEMU or the network fails until" in move.why


def test_no_domain_is_where_it_is_not_configured_or_has_not_failed_so() -> None:
    a = domain("a", "h1", 3.0)
    assert not only(seen(a, SLOW, post_copy=False)).post_copy
    assert not only(seen(a)).post_copy
    assert not only(seen(a, replace(SLOW, destination="h3"))).post_copy


def test_no_domain_is_whose_disks_are_copied() -> None:
    move = only(seen(domain("a", "h1", 3.0, copies=(DISK,)), SLOW))
    assert (bool(move.copies), move.post_copy) == (True, False)


def test_a_file_keeps_whether_it_is_allowed() -> None:
    found = seen(domain("a", "h1", 3.0), SLOW)
    assert read_snapshot(write_snapshot(found), "test").post_copy
