"""The hosts' libvirt daemons as the balancer sees them: what can be asked and done, in plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from virtpoise_balancer.execute.facts import Bound, Hardware, HardwareVerdict, HostFacts, Presence
from virtpoise_balancer.model import DiskCopy, Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """libvirt's figures of a migration that has ended; None where it has none."""

    seconds: float | None = None
    downtime_seconds: float | None = None
    transferred_bytes: int | None = None


class RunningMigration(Protocol):
    """A migration that libvirt was asked for."""

    def ended(self, seconds: float) -> bool:
        """Whether the request has been answered, waiting this long for it."""
        ...

    @property
    def error(self) -> str | None:
        """What went wrong, once it has ended: libvirt's message or a lost connection; None for a success."""
        ...

    @property
    def lost(self) -> bool:
        """Whether the connection broke instead, so that libvirt may still carry the request out."""
        ...

    @property
    def waited_seconds(self) -> float | None:
        """The seconds that the domain waited on its destination to be started there, once the migration has ended.

        None where that was not seen.
        """
        ...


class Hosts(Protocol):
    """All hosts, each by its name; domains by their uuids.

    Every method returns or raises within a bounded time. LibvirtError when the host does not answer (LibvirtSilent: not
    in time), or refuses; its message is one line.
    """

    def active_domains(self, host: str) -> int:
        """How many domains the host's libvirt has in any state but shut off."""
        ...

    def presence(self, host: str, uuid: str) -> Presence:
        """How the domain stands on this host."""
        ...

    def between_hosts(self, host: str) -> tuple[tuple[str, str], ...]:
        """The domains that a migration has paused on this host, as (uuid, name): those that arrive, and those that are
        handed over.
        """
        ...

    def progress(self, host: str, uuid: str) -> Progress | None:
        """The figures of the domain's running migration on this host; None when there is none.

        A backup or a dump is none.
        """
        ...

    def is_worked_on(self, host: str, uuid: str) -> bool:
        """Whether the domain has a running job on this host, of whatever kind and whoever asked for it."""
        ...

    def completed(self, host: str, uuid: str) -> Completed:
        """The figures of the domain's last migration to this host."""
        ...

    def migration(
        self,
        uuid: str,
        source: str,
        destination: str,
        bandwidth_mib_per_second: int | None,
        copies: Sequence[DiskCopy] = (),
        *,
        post_copy: bool = False,
    ) -> AbstractContextManager[RunningMigration]:
        """Ask for a migration. It goes on when the block is left before it has ended; the domain then arrives paused.

        ``copies``: the disks that are copied into volumes which ``make_room`` has created. ``post_copy``: it may be
        switched, and libvirt starts it on the destination.

        Otherwise it is started on the destination once libvirt has reported that the source has given it up.
        """
        ...

    def switch(self, host: str, uuid: str) -> None:
        """Let the domain run on the destination of its migration by post-copy, before the rest of its memory is there.

        Nothing can take that back.
        """
        ...

    def dirty_rate(self, host: str, uuid: str, least_bytes: int) -> float | None:
        """How many bytes of its memory the domain writes to per second, measured now. That takes about a second.

        None where it has less memory than ``least_bytes``.
        """
        ...

    def set_bandwidth(self, host: str, uuid: str, bandwidth_mib_per_second: int | None) -> None:
        """Limit the domain's migration from this host that is under way; None ends the limit."""
        ...

    def abort(self, host: str, uuid: str) -> None:
        """Abort the domain's migration from this host. LibvirtError where it has been switched to post-copy, or another
        job works on the domain: these are left alone.
        """
        ...

    def undefine(self, host: str, uuid: str) -> None:
        """Remove the domain's definition from this host; one that is gone already is no error."""
        ...

    def resume(self, host: str, uuid: str) -> None:
        """Let the domain's CPUs run on this host."""
        ...

    def suspend(self, host: str, uuid: str) -> None:
        """Stop the domain's CPUs on this host."""
        ...

    def describe(self, host: str, uuid: str) -> str:
        """What distinguishes this host's copy of the domain from others, in words."""
        ...

    def facts(self, host: str) -> HostFacts:
        """What decides whether domains can be migrated from and to the host."""
        ...

    def leaving(
        self, host: str, uuids: Sequence[str], copyable: Mapping[str, Sequence[str]]
    ) -> Mapping[str, Bound | None]:
        """By uuid, why libvirt would not let the domain leave the host, whatever the destination, or None.

        Domains of which libvirt reports nothing now are left out. ``copyable``: by uuid, the devices of the disks that
        may be copied with it.
        """
        ...

    def present(self, host: str, images: Sequence[str]) -> Mapping[str, bool]:
        """Whether the host has these images (``Needs.images``); those that its pools cannot answer for are left out."""
        ...

    def make_room(self, host: str, copies: Sequence[DiskCopy]) -> tuple[str, ...]:
        """Create an empty volume for each disk, and return the volumes' paths; all or none.

        NoRoom where there is none, or something is there already: that is never written to. LibvirtError where it is
        not known whether they were created.
        """
        ...

    def discard(
        self,
        host: str,
        uuid: str,
        paths: Sequence[str],
        changed_before: float | None = None,
        *,
        only_empty: bool = False,
    ) -> None:
        """Delete volumes that ``make_room`` has created for the domain. LibvirtError where a domain may use one, or one
        has changed since ``changed_before`` (Unix seconds). ``only_empty``: those in which there is something stay.
        """
        ...

    def verdicts(self, host: str, kinds: Sequence[Hardware]) -> tuple[HardwareVerdict, ...]:
        """Whether the host has each of these kinds of hardware, as its libvirt reports it."""
        ...

    def reaches(self, host: str, destination: str) -> str | None:
        """Why the host's own daemon does not reach the destination's, or None.

        LibvirtError also when it cannot be asked.
        """
        ...

    def runs_cpu(self, host: str, cpu: str) -> bool | None:
        """Whether the host's CPU can do all that the given one can (XML of ``HostFacts``); None where libvirt cannot
        compare.
        """
        ...

    def unseen(self, host: str, paths: Sequence[str]) -> tuple[str, ...]:
        """Those of the paths that are in none of the host's storage pools."""
        ...
