"""One group of hosts with all that works for it alone: its look, memory, moves, orders, page and metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace

from virtpoise_balancer.analyse.membership import Machine, with_shared
from virtpoise_balancer.analyse.silence import with_silence
from virtpoise_balancer.clock import Clock
from virtpoise_balancer.config import Config
from virtpoise_balancer.control.orders import Orders
from virtpoise_balancer.errors import BadInput
from virtpoise_balancer.execute.workers import Workers
from virtpoise_balancer.knowledge.records import Action
from virtpoise_balancer.knowledge.store import Store
from virtpoise_balancer.model import HostState, MigrationOutcome, Move, Plan, Snapshot
from virtpoise_balancer.plan.stream import limits_of
from virtpoise_balancer.plan.subset import Choice
from virtpoise_balancer.service import reports, wiring
from virtpoise_balancer.service.common_notes import CommonNotes
from virtpoise_balancer.service.known import KnownOverrides
from virtpoise_balancer.service.leading import Leadership
from virtpoise_balancer.service.roster import Roster
from virtpoise_balancer.service.turns import Turns, first_state
from virtpoise_balancer.threads import Lock
from virtpoise_balancer.web.context import Context
from virtpoise_balancer.web.guard import Gate
from virtpoise_balancer.web.metrics import Metrics
from virtpoise_balancer.web.state import Published

# What plans follow from. Where it changes, moves that have not begun are given up.
_DECIDES = ("prometheus", "libvirt", "mode", "policy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Common:
    """What all groups of a balancer share. ``store``: of any group."""

    store: Store
    leadership: Leadership
    workers: Workers
    roster: Roster
    notes: CommonNotes
    gate: Gate
    turning: Lock
    clock: Clock
    left_out: Callable[[str], None]
    reload: Callable[[], None]
    stopping: Callable[[], bool]
    every: Callable[[], Sequence[Context]]


class GroupAtStart:
    """What a group needs before anything of it is written: its hosts, asked once."""

    def __init__(self, config: Config, workers: Workers) -> None:
        self.name = config.group
        self.config = config
        self.reach = wiring.make_reach(lambda: self.config, workers)

    def check_reachable(self, now: float) -> None:
        """Report a wrong address at the start instead of failing in every cycle. MonitorError, or BadInput.

        In mode recommend the hosts are asked beside the cycles: recommendations do not need libvirt.
        """
        seen = wiring.make_observer(self.config).observe(now)
        hosts = [host.name for host in seen.snapshot.hosts if host.state is not HostState.UNKNOWN]
        if self.config.mode != "automatic":
            return
        self.reach.ask(hosts)
        silent = self.reach.silence().silent
        if silent and len(silent) == len(hosts):
            raise BadInput(f"libvirt.uri: no host answers; {silent[hosts[0]]}")


class ServedGroup:
    """A group of hosts that the balancer serves. ``config``: its own (``Config.each_group``)."""

    def __init__(self, start: GroupAtStart, common: Common) -> None:
        self.name, self.config, self.reach = start.name, start.config, start.reach
        self._common = common
        clock, workers = common.clock, common.workers
        self.store = common.store.of_group(self.name, self.config.all_groups)
        self._observer = wiring.make_observer(self.config)
        self.published = Published(first_state(self.config), clock=clock)
        self.metrics = Metrics(self.published, of_process=not self.name)
        self._accounts = wiring.make_accounts(lambda: self.config, workers, self.store, clock, self._migration_ended)
        self._inventory = wiring.make_inventory(lambda: self.config, workers, self.store, clock)
        self.executor = wiring.make_executor(
            self.config, workers, self._accounts, self.reach, self._inventory, lambda: common.leadership.leads
        )
        self.turns = Turns(
            config=self.config,
            cycle=wiring.make_cycle(
                self.config,
                self.store,
                self.executor,
                self._accounts,
                clock,
                self.reach,
                self._shared,
                self._inventory,
            ),
            leadership=common.leadership,
            store=self.store,
            reach=self.reach,
            metrics=self.metrics,
            published=self.published,
            clock=clock,
            settle=lambda: self.context.strangers.settle(),
            go_on=self.executor.go_on,
            left_out=common.left_out,
            noted=lambda plan: common.notes.of(self.config, plan),
            look_at=self._inventory.keep_up,
            group=self.name,
            turning=common.turning,
        )
        self.published.in_flight = lambda: self.executor.in_flight
        self.published.overrides = KnownOverrides(self.store.overrides)
        self.context = self._make_context()

    def _make_context(self) -> Context:
        orders = Orders(
            store=self.store,
            look=self._look,
            mode=lambda: self.config.mode,
            policy=lambda: self.config.policy,
            only_recommends=lambda: self.config.libvirt.only_recommends,
            carry_out=self._apply,
            on_order=self._ordered,
            clock=self._common.clock,
        )
        return Context(
            published=self.published,
            metrics=self.metrics,
            store=self.store,
            orders=orders,
            config=lambda: self.config,
            reload=self._common.reload,
            gate=self._common.gate,
            stopping=self._common.stopping,
            group=self.name,
            every=self._common.every,
        )

    def members(self) -> frozenset[str]:
        """The names of its hosts now. MonitorError."""
        return self._observer.members(self._common.clock.now())

    def machines(self) -> Mapping[str, Machine]:
        """Which machine each of its hosts is, as far as its libvirt has said."""
        return self._inventory.machines()

    def use(self, config: Config) -> None:
        """Go on with a new configuration, while no cycle runs and no order is followed."""
        changed = [name for name in _DECIDES if getattr(config, name) != getattr(self.config, name)]
        if changed:
            self.executor.drop(f"{', '.join(changed)} of the configuration changed after it was planned")
        self.config = config
        self._observer = wiring.make_observer(config)
        self._inventory.doubt()
        self.executor.migrator = wiring.make_migrator(config, self._common.workers)
        self.executor.limits = limits_of(config.policy)
        self.turns.config = config
        made = wiring.make_cycle(
            config,
            self.store,
            self.executor,
            self._accounts,
            self._common.clock,
            self.reach,
            self._shared,
            self._inventory,
        )
        self.turns.cycle = replace(made, habits=self.turns.cycle.habits)

    def _shared(self) -> dict[str, str]:
        return dict(self._common.roster.shared(self.name))

    def _apply(self, wanted: Set[Choice]) -> Plan:
        return self.turns.apply(wanted)

    def _look(self) -> Snapshot:
        """The group as it is now, for an order."""
        seen = self.turns.cycle.observer.observe(self._common.clock.now()).snapshot
        own = with_shared(seen, self._shared())
        return with_silence(own, self.reach.silence(), acts=self.published.mode == "automatic")

    def _migration_ended(self, move: Move, outcome: MigrationOutcome) -> None:
        self.metrics.migration_ended(move, outcome)
        reports.migration_ended(move, outcome)

    def _ordered(self, action: Action) -> None:
        self.metrics.ordered(action)
        reports.ordered(action)
