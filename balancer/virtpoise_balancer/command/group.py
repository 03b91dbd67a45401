"""The group that a command works on: from Prometheus and the store, or from a file."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from virtpoise_balancer.command.options import DEFAULT_CONFIG, read_file, warn_left_out, warn_unknown
from virtpoise_balancer.command.which import settings_of_one
from virtpoise_balancer.errors import NoStore

if TYPE_CHECKING:
    from virtpoise_balancer.config import Config
    from virtpoise_balancer.knowledge.records import Memory
    from virtpoise_balancer.model import Policy, SampleTimes, Snapshot


def group_and_policy(snapshot: Path | None, config: Path | None, group: str | None) -> tuple[Snapshot, Policy]:
    """The group to plan for, and the policy.

    Without ``snapshot``: the group as it is now. With it: the file's group, and the default policy unless ``config`` is
    given. ``group``: as of ``settings_of_one``.
    """
    if snapshot is None:
        settings = settings_of_one(config or DEFAULT_CONFIG, group)
        return observe_now(settings), settings.policy
    from virtpoise_balancer.analyse.reserve import with_reserve
    from virtpoise_balancer.formats import read_snapshot
    from virtpoise_balancer.model import Policy

    seen = read_snapshot(read_file(snapshot), str(snapshot))
    if config is None:
        return seen, Policy()
    policy = settings_of_one(config, group).policy
    return with_reserve(seen, policy), policy


def observe_now(settings: Config) -> Snapshot:
    """The group now, completed with what the store remembers of it: nothing before the balancer has run.

    MonitorError if Prometheus cannot be queried.
    """
    import time

    from virtpoise_balancer.analyse.habits import HabitBook
    from virtpoise_balancer.control import usual
    from virtpoise_balancer.control.cycle import with_memory
    from virtpoise_balancer.service import wiring

    now, observer = time.time(), wiring.make_observer(settings)
    seen = observer.observe(now).snapshot
    if usual.needs_habits(seen, settings.policy):
        book = HabitBook()
        for line in usual.take_in(book, observer, seen, settings.policy):
            warn_unknown(line)
        seen = usual.with_habits(seen, book, settings.policy)
    times = observer.sample_times
    return with_memory(
        seen, _memory(settings, times, now, [host.name for host in seen.hosts]), settings.policy, times, now
    )


def _memory(settings: Config, times: SampleTimes, now: float, hosts: Collection[str]) -> Memory:
    from contextlib import closing
    from dataclasses import replace

    from virtpoise_balancer.control.cycle import recall
    from virtpoise_balancer.execute.inventory import facts_of
    from virtpoise_balancer.knowledge.records import Memory
    from virtpoise_balancer.service import wiring

    try:
        with closing(wiring.open_store(settings, warn_left_out)) as store:
            memory = recall(store, settings.policy, times, now, hosts)
            documents = {host: one for host, one in store.host_facts().items() if host in hosts}
            return replace(memory, facts=facts_of(documents))
    except NoStore:
        return Memory()
