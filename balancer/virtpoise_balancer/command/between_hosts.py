"""The doctor's look at each pair of hosts: what stands in the way of migrating from one to the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from virtpoise_balancer.command.finding import Finding, Severity
from virtpoise_balancer.errors import LibvirtError, LibvirtSilent
from virtpoise_balancer.execute.facts import HostFacts
from virtpoise_balancer.execute.hosts import Hosts
from virtpoise_balancer.execute.incompatible import HostRecord, kinds_of
from virtpoise_balancer.model import Facts, Need

_MOST_NAMED = 3

_T = TypeVar("_T")

_REMEDIES = {
    Need.CPU: "give {domain} a CPU model that both have (virsh cpu-baseline), or keep it off {destination} with a rule",
    Need.MACHINE: "a newer QEMU on {destination}, or an older machine type for {domain}",
    Need.NETWORK: "make it on {destination}, too: virsh net-define and net-start, nwfilter-define, or the bridge itself",
    Need.STORAGE: "make it on {destination}, too: virsh pool-define and pool-start, secret-define and secret-set-value",
    Need.PINS: "bind {domain} to what both have (virsh vcpupin, emulatorpin, numatune), or keep it off {destination}",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class BetweenHosts:
    """Asks about pairs of hosts. A host that stops answering is asked nothing more: each question would wait for its
    whole deadline.

    ``known``: what the hosts that have answered so far report; ``peer_uri_of``: by which URI hosts reach a host. Safe
    to use from several threads.
    """

    hosts: Hosts
    known: Mapping[str, HostFacts]
    peer_uri_of: Callable[[str], str]
    _silent: dict[str, str] = field(default_factory=dict)  # why, by host

    def record(self, host: str) -> HostRecord:
        """What the host reports of itself, and whether it has the hardware of the domains of all hosts."""
        kinds = kinds_of(self.known.values())
        answer = self._answer(host, lambda: self.hosts.verdicts(host, list(kinds.values())))
        verdicts = {} if isinstance(answer, LibvirtError) else dict(zip(kinds, answer, strict=True))
        return HostRecord(at=0.0, facts=self.known[host], verdicts=verdicts)

    def findings(self, source: str, destinations: Iterable[str], facts: Facts) -> list[Finding]:
        """One for each destination. ``facts``: what stands against migrations, by the records of all hosts."""
        return [self._finding(source, destination, facts) for destination in destinations]

    def _finding(self, source: str, destination: str, facts: Facts) -> Finding:
        here, there = self.known[source], self.known[destination]
        # The destination first. A source that waits for a silent one holds the domain that it was asked to migrate.
        paths = sorted({path for domain in here.domains for path in domain.disks})
        unseen = self._answer(destination, lambda: self.hosts.unseen(destination, paths))
        runs = here.cpu
        cpu = None if runs is None else self._answer(destination, lambda: self.hosts.runs_cpu(destination, runs))
        way = self._way(source, destination)
        for host in (destination, source):
            if why := self._silent.get(host):
                return Finding(
                    subject=f"{source} → {destination}",
                    verdict=Severity.BAD,
                    text=f"{host} has stopped answering: {why}",
                    remedy=f"on {host}: systemctl status libvirtd; then ask again",
                )
        known_cpu = None if isinstance(cpu, LibvirtError) else cpu
        return judge_pair(
            source, destination, here, there, facts, way, known_cpu, unseen, self.peer_uri_of(destination)
        )

    def _way(self, source: str, destination: str) -> str | LibvirtError | None:
        """The destination's URI as the source would use it, why there is none, or None, as ``judge_pair`` takes it."""
        if destination in self._silent or source in self._silent:
            return None
        try:
            return self.hosts.reaches(source, destination)
        except LibvirtSilent as error:
            # The source waits for the destination, or is silent itself. If both answer the balancer, nothing passes
            # between them.
            for host in (destination, source):
                self._answer(host, lambda host=host: self.hosts.active_domains(host))  # type: ignore[misc]
            return str(error)
        except LibvirtError as error:
            return error

    def _answer(self, host: str, ask: Callable[[], _T]) -> _T | LibvirtError:
        if host in self._silent:
            return LibvirtError(self._silent[host])
        try:
            return ask()
        except LibvirtSilent as error:
            self._silent[host] = str(error)
            return error
        except LibvirtError as error:
            return error


def judge_pair(
    source: str,
    destination: str,
    here: HostFacts,
    there: HostFacts,
    facts: Facts,
    way: str | LibvirtError | None,
    cpu: bool | None,
    unseen: Sequence[str] | LibvirtError,
    peer_uri: str,
) -> Finding:
    """One line on migrating from one host to another: the first thing that stands in the way.

    ``facts``: what stands against migrations; ``way``: why the source does not reach the destination, None if it does,
    a LibvirtError where it cannot be asked; ``cpu``: whether the destination's CPU can do what the source's can;
    ``unseen``: disks that are in none of the destination's pools, a LibvirtError where those cannot be asked;
    ``peer_uri``: by which hosts reach the destination.
    """
    subject = f"{source} → {destination}"
    if here.uuid is not None and here.uuid == there.uuid:
        return Finding(
            subject=subject,
            verdict=Severity.BAD,
            text=f"both have the uuid {here.uuid}, so libvirt takes them for one host",
            remedy="on one of them: a host_uuid of its own in /etc/libvirt/libvirtd.conf, then restart libvirtd",
        )
    if isinstance(way, str):
        return Finding(
            subject=subject,
            verdict=Severity.BAD,
            text=f"{source} does not reach {destination}: {way}",
            remedy=f"on {source}, as root: virsh -c {peer_uri} list (keys, certificates, names, firewall)",
        )
    for domain in here.domains:
        for requirement in facts.missing(domain.uuid, destination):
            return Finding(
                subject=subject,
                verdict=Severity.BAD,
                text=f"{domain.name} needs {requirement.name}, which is not there",
                remedy=_REMEDIES[requirement.kind].format(domain=domain.name, destination=destination),
            )
    if cpu is False:
        return Finding(
            subject=subject,
            verdict=Severity.WARNING,
            text=f"{destination}'s CPU lacks what {source}'s has",
            remedy="give domains a CPU model that both have (virsh cpu-baseline), or keep them apart with a rule",
        )
    if unseen and not isinstance(unseen, LibvirtError):
        more = f" and {len(unseen) - _MOST_NAMED} more" if len(unseen) > _MOST_NAMED else ""
        return Finding(
            subject=subject,
            verdict=Severity.WARNING,
            text=f"no storage pool of {destination} has {', '.join(unseen[:_MOST_NAMED])}{more}",
            remedy="keep disks on storage that both hosts share, at the same path",
        )
    for name, ours, theirs in (
        ("hypervisor", here.hypervisor_version, there.hypervisor_version),
        ("libvirt", here.libvirt_version, there.libvirt_version),
    ):
        if ours is not None and theirs is not None and theirs < ours:
            return Finding(
                subject=subject,
                verdict=Severity.WARNING,
                text=f"the {name} is older there ({version(theirs)}, here {version(ours)})",
                remedy="bring both to one version: what is newer may not go to an older one",
            )
    if isinstance(way, LibvirtError):
        return Finding(subject=subject, verdict=Severity.NOT_KNOWN, text=f"the way is not known: {way}")
    if isinstance(unseen, LibvirtError):
        return Finding(subject=subject, verdict=Severity.NOT_KNOWN, text=f"reached, its storage is not known: {unseen}")
    known = "" if cpu is None else ", its CPU can do as much"
    return Finding(subject=subject, verdict=Severity.GOOD, text=f"reached{known}")


def version(number: int) -> str:
    """A version as libvirt counts it, in its usual form: "10.0.0"."""
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"
