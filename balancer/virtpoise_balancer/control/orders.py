"""Orders of people: drain, undrain, pause, resume, mode, release, apply, acknowledge.

Each is journalled, whether it is followed or refused.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING

from virtpoise_balancer.analyse.brake import Brake, in_force
from virtpoise_balancer.analyse.drains import is_draining, too_many, with_drains
from virtpoise_balancer.clock import SYSTEM, Clock
from virtpoise_balancer.control.acting import standing
from virtpoise_balancer.errors import NotKnown, Refused, VirtpoiseError
from virtpoise_balancer.knowledge.records import Action, Memory, OverrideValue
from virtpoise_balancer.knowledge.store import Store
from virtpoise_balancer.model import Host, HostState, Mode, Plan, Policy, Snapshot

if TYPE_CHECKING:
    from virtpoise_balancer.plan.subset import Choice


class Unforeseen(VirtpoiseError):
    """An order failed for a reason that the program does not expect: a bug, or a fault of the machine.

    Not the caller's mistake.
    """

    def __init__(self, error: Exception) -> None:
        said = str(error).partition("\n")[0]
        super().__init__(f"unforeseen: {type(error).__name__}{f': {said}' if said else ''}")


@dataclass(frozen=True, slots=True)
class By:
    """Who gives an order, and from where: "command", or an address."""

    who: str
    origin: str


def no_carrier(_wanted: Set[Choice]) -> Plan:
    raise Refused("only a running balancer makes moves")


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """Follows orders. ``look``: observes the group; ``mode``: the configured mode; ``carry_out``: makes moves of the
    plan; ``on_order``: called after each order is journalled; ``policy``: as it is now; ``only_recommends``: why no
    move may be made without a person's approval, or None.

    Each method returns the answer as a sentence. It raises Refused or NotKnown when the order cannot be followed; then
    nothing was changed.
    """

    store: Store
    look: Callable[[], Snapshot]
    mode: Callable[[], Mode]
    carry_out: Callable[[Set[Choice]], Plan] = no_carrier
    on_order: Callable[[Action], None] = lambda _action: None
    policy: Callable[[], Policy] = Policy
    only_recommends: Callable[[], str | None] = lambda: None
    clock: Clock = SYSTEM

    def drain(self, host: str, by: By) -> str:
        return self._journalled("drain", host, by, lambda: self._drain(host))

    def undrain(self, host: str, by: By) -> str:
        return self._journalled("undrain", host, by, lambda: self._undrain(host))

    def pause(self, by: By) -> str:
        return self._journalled("pause", "", by, lambda: self._pause(by))

    def resume(self, by: By) -> str:
        return self._journalled("resume", "", by, self._resume)

    def set_mode(self, mode: Mode, by: By) -> str:
        return self._journalled("mode", mode, by, lambda: self._set_mode(mode, by))

    def release(self, by: By) -> str:
        return self._journalled("release", "", by, lambda: self._release(by))

    def apply(self, wanted: Set[Choice], by: By) -> str:
        target = f"{len(wanted)} move{'' if len(wanted) == 1 else 's'}"  # the answer names them
        return self._journalled("apply", target, by, lambda: self._apply(wanted))

    def acknowledge(self, domain: str, by: By) -> str:
        return self._journalled("acknowledge", domain, by, lambda: self._acknowledge(domain, by))

    def refuse(self, action: str, target: str, by: By, why: str) -> None:
        """Journal an order that was refused before it got here."""
        self._journal(action, target, by, accepted=False, answer=why)

    def _journalled(self, action: str, target: str, by: By, follow: Callable[[], str]) -> str:
        try:
            answer = follow()
        except VirtpoiseError as error:
            self._journal(action, target, by, accepted=False, answer=str(error))
            raise
        except Exception as error:
            failed = Unforeseen(error)
            self._journal(action, target, by, accepted=False, answer=str(failed))
            raise failed from error
        self._journal(action, target, by, accepted=True, answer=answer)
        return answer

    def _journal(self, action: str, target: str, by: By, *, accepted: bool, answer: str) -> None:
        entry = Action(
            at=self.clock.now(),
            who=by.who,
            origin=by.origin,
            action=action,
            target=target,
            accepted=accepted,
            answer=answer,
        )
        self.store.record_action(entry)
        self.on_order(entry)

    def _drain(self, name: str) -> str:
        drains = self.store.standing_orders().drains
        group = with_drains(self.look(), drains)  # a draining host is no destination
        host = _known(group, name)
        if unknown := host.why_unknown:
            raise Refused(f"{name}: {unknown.text}, so nothing can be moved off it")
        if not any(other.state is HostState.ACTIVE and other.name != name for other in group.hosts):
            raise Refused(f"{name}: it is the last host of the group, there is nowhere to move its domains")
        limit = self.policy().drains
        if limit is not None and not is_draining(name, drains) and (why := too_many(group, host, drains, limit)):
            raise Refused(f"{name}: {why}")
        if not self.store.order_drain(name, draining=True):
            return f"{name} is draining already."
        return f"{name} drains from the next cycle on.{self._hint()}"

    def _undrain(self, name: str) -> str:
        if self.store.order_drain(name, draining=False):
            return f"{name} is back in the group."
        _known(self.look(), name)
        return f"{name} is not draining."

    def _pause(self, by: By) -> str:
        if pause := self.store.overrides().paused:
            return f"Paused already, by {pause.who}."
        self.store.override("paused", OverrideValue(value="yes", instead_of="no", at=self.clock.now(), who=by.who))
        return "Paused: no migration begins until it is resumed; one under way goes on."

    def _resume(self) -> str:
        if self.store.overrides().paused is None:
            return "It is not paused."
        self.store.override("paused", None)
        return "Resumed."

    def _set_mode(self, mode: Mode, by: By) -> str:
        configured = self.mode()
        if mode == "automatic" and (why := self.only_recommends()):
            raise Refused(why)
        if self.store.overrides().mode_over(configured) == mode:
            return f"The mode is {mode} already."
        setting = OverrideValue(value=mode, instead_of=configured, at=self.clock.now(), who=by.who)
        self.store.override("mode", None if mode == configured else setting)
        braked = " The brake is on, so moves are only recommended: see virtpoise release." if self._brake() else ""
        return f"The mode is {mode} from the next cycle on.{braked if mode == 'automatic' else ''}"

    def _release(self, by: By) -> str:
        brake = self._brake()
        if brake is None:
            return "The brake is not on."
        now = self.clock.now()
        self.store.release(OverrideValue(value=brake.cause.value, instead_of="", at=now, who=by.who))
        return f"The brake is released; it was on because {brake.why}."

    def _apply(self, wanted: Set[Choice]) -> str:
        if not wanted:
            raise Refused("no move was chosen")
        if pause := self.store.overrides().paused:
            raise Refused(f"paused by {pause.who}: resume first")
        plan = self.carry_out(wanted)
        moves = ", ".join(f"{move.domain} from {move.source} to {move.destination}" for move in plan.moves)
        return f"Begun: {moves}."

    def _acknowledge(self, name: str, by: By) -> str:
        unsettled = {
            entry.move.uuid: entry.move.domain
            for entry in self.store.watched(in_all_groups=True)
            if entry.is_open or entry.lost
        }
        # Its owner may have named a domain like the uuid of another one.
        wanted = [name] if name in unsettled else [uuid for uuid, domain in unsettled.items() if name == domain]
        if not wanted:
            names = ", ".join(sorted(unsettled.values())) or "none"
            raise NotKnown(f"{name}: no such domain is lost or has a migration without a known end; there are: {names}")
        if len(wanted) > 1:
            raise Refused(f"{name}: several domains have this name; name one by its uuid: {', '.join(sorted(wanted))}")
        self.store.acknowledge(wanted[0], f"reported as ended by {by.who}")
        return f"{unsettled[wanted[0]]} is accounted for: its hosts take part again from the next cycle on."

    def _hint(self) -> str:
        """What keeps a drain from beginning at once. A brake that the next cycle pulls is not known yet."""
        memory = Memory(orders=self.store.standing_orders(), brake=self.store.brake())
        known = standing(memory, self.policy(), self.mode(), self.clock.now(), only_recommends=self.only_recommends())
        if known.acts:
            return ""
        if memory.orders.overrides.paused:
            return f" It waits: {known.held}. Go on with virtpoise resume."
        if known.blackout:
            return f" It waits: {known.held}. Go ahead with virtpoise apply."
        return " Its moves are only recommended now: see the plan."

    def _brake(self) -> Brake | None:
        return in_force(self.store.brake(), self.store.overrides().released_at)


def _known(group: Snapshot, name: str) -> Host:
    host = group.host(name)
    if host is None:
        names = ", ".join(host.name for host in group.hosts[:20]) or "none"
        more = f" and {len(group.hosts) - 20} more" if len(group.hosts) > 20 else ""
        raise NotKnown(f"{name}: no such host is scraped; there are: {names}{more}")
    return host
