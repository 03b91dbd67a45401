"""Whether libvirt answers, what the host is, and which domains libvirt knows in which state."""

from pathlib import Path

from virtpoise_exporter import metrics
from virtpoise_exporter.clock import SYSTEM, Clock
from virtpoise_exporter.collectors.staleness import Staleness
from virtpoise_exporter.errors import Incomplete
from virtpoise_exporter.exposition import Family
from virtpoise_exporter.kernel.meminfo import parse_meminfo
from virtpoise_exporter.virt.link import FRESH_SECONDS, Link
from virtpoise_exporter.virt.model import Domain, Inventory, state_words


class LibvirtCollector:
    """Shows the last list of domains.

    When that list is too old, states and counts are left out and counted as stale. So is the state of a domain that
    libvirt does not answer about; its facts are shown with their age.
    """

    name = "libvirt"

    def __init__(self, link: Link, procfs: Path, clock: Clock = SYSTEM) -> None:
        self._link = link
        self._clock = clock
        self._meminfo = procfs / "meminfo"
        self._staleness = Staleness(self.name)

    def collect(self, _seconds: float) -> list[Family]:
        inventory = self._link.inventory()
        last = self._link.last_inventory()
        up, age = Family(metrics.LIBVIRT_UP), Family(metrics.DATA_AGE)
        up.add(0 if inventory is None else 1)
        if last is not None:
            age.add(self._clock.monotonic() - last.taken_at, self.name)
        families, missing = [up, age, *_host(last)], ""
        if inventory:
            hugepages, missing = _hugepages(inventory, self._meminfo)
            families += [*_domains(inventory, self._clock.monotonic()), hugepages]
        families += self._stale(inventory, last)
        if missing:
            raise Incomplete(families, [missing])
        return families

    def _stale(self, inventory: Inventory | None, last: Inventory | None) -> list[Family]:
        if inventory is not None:
            now = inventory.taken_at
            expected = [domain for domain in inventory.domains if domain.active or domain.uuid in inventory.held_since]
            fresh = {domain.uuid for domain in expected if _state_known(inventory, domain, self._clock.monotonic())}
            return self._staleness.judge(expected, fresh, now)
        active = [domain for domain in last.domains if domain.active] if last else []
        return self._staleness.judge(active, (), self._clock.monotonic())


def _hugepages(inventory: Inventory, meminfo: Path) -> tuple[Family, str]:
    """The domains' memory in huge pages, and why their default size is not known, or an empty text.

    Where the XML names no size, the pages are of the host's default size. On a kernel without huge pages such a domain
    cannot run and has none. Where ``meminfo`` cannot be read, their size is "unknown".
    """
    family, default, missing = Family(metrics.DOMAIN_HUGEPAGES), "", ""
    asking = [domain for domain in inventory.domains if domain.facts.hugepages]
    if any(not size for domain in asking for size, _ in domain.facts.hugepages):
        try:
            default = str(parse_meminfo(meminfo.read_text()).get("Hugepagesize", "") or "")
        except (OSError, ValueError) as error:
            default, missing = "unknown", f"the default size of huge pages: {error}"
    for domain in asking:
        for size, memory in domain.facts.hugepages:
            if size or default:
                family.add_shared(domain.labels, memory, str(size) if size else default)
    return family, missing


def _host(inventory: Inventory | None) -> list[Family]:
    """The host's identity. It does not change, so it is shown while libvirt is down, too."""
    info = Family(metrics.HOST_INFO)
    if inventory is not None and inventory.host.hostname:
        host = inventory.host
        info.add(1, host.hostname, host.host_uuid, host.cpu_model, host.arch, host.hypervisor, host.libvirt_version)
    return [info]


def _state_known(inventory: Inventory, domain: Domain, now: float) -> bool:
    return now - inventory.held_since.get(domain.uuid, now) <= FRESH_SECONDS


def _domains(inventory: Inventory, now: float) -> list[Family]:
    counts = Family(metrics.DOMAINS)
    active = sum(domain.active for domain in inventory.domains)
    counts.add(active, "active")
    counts.add(len(inventory.domains) - active, "inactive")
    info, running, states = Family(metrics.DOMAIN_INFO), Family(metrics.DOMAIN_RUNNING), Family(metrics.DOMAIN_STATE)
    vcpus, memory = Family(metrics.DOMAIN_VCPUS), Family(metrics.DOMAIN_MEMORY)
    maximum = Family(metrics.DOMAIN_MEMORY_MAXIMUM)
    placement, age = Family(metrics.DOMAIN_PLACEMENT), Family(metrics.DOMAIN_FACTS_AGE)
    for domain in inventory.domains:
        info.add_shared(domain.labels, 1)
        if _state_known(inventory, domain, now):
            running.add_shared(domain.labels, 1 if domain.running else 0)
            states.add_shared(domain.labels, 1, *state_words(domain.state, domain.reason))
        for rule, value in domain.facts.placement:
            placement.add_shared(domain.labels, 1, rule, value)
        if domain.facts.vcpus:
            vcpus.add_shared(domain.labels, domain.facts.vcpus)
            memory.add_shared(domain.labels, domain.facts.memory_bytes)
            maximum.add_shared(domain.labels, domain.facts.memory_maximum_bytes)
        if domain.uuid in inventory.facts_from:
            age.add_shared(domain.labels, now - inventory.facts_from[domain.uuid])
    return [counts, info, placement, running, states, vcpus, memory, maximum, age]
