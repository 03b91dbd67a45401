"""Chooses the source of the domains' usage: the kernel where its files can be read, else libvirt."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from virtpoise_exporter.kernel.domains import KernelSource
from virtpoise_exporter.log import log
from virtpoise_exporter.usage import Usage
from virtpoise_exporter.virt.model import Domain

_TRIES = 3  # a domain may be listed a moment before its process can be found


class Source(Protocol):
    """Reads the domains' usage. Both sources give equal figures for the same domain."""

    @property
    def name(self) -> str:
        """The source's name: ``kernel`` or ``libvirt``."""

    def read(self, domains: Sequence[Domain], seconds: float, /) -> Mapping[str, Usage]:
        """The usage of the active ``domains`` by uuid, read now, after at most ``seconds``.

        A domain that cannot be read now is left out.
        """


class SourceChoice:
    """Chooses once, when the first domain runs. Changing between two sources would make counters jump.

    A domain whose process runs no vCPU is read from libvirt all the same, until it ends.
    """

    def __init__(self, kernel: KernelSource | None, libvirt: Source) -> None:
        """Choose between two sources. ``kernel`` is None if the domains do not run on this machine."""
        self._kernel = kernel
        self._libvirt = libvirt
        self._failures = 0
        self._decided = kernel is None
        self.source: Source = kernel or libvirt
        self.reason = "no domain's process has been seen yet" if kernel else "libvirt is on another machine"
        self._logged = ""
        self._wrapped: frozenset[tuple[str, int]] = frozenset()  # domains that are read from libvirt all the same

    def log_choice(self) -> None:
        """Logs the source and the reason, unless that has been logged already."""
        if self.reason != self._logged:
            self._logged = self.reason
            log.info("the domains' usage is read from source %s: %s", self.source.name, self.reason)

    def follow(self, domains: Sequence[Domain]) -> None:
        """Takes a new list of domains. Called only by the thread that lists them."""
        if self._kernel is None:
            return
        if self.source is self._kernel:
            self._kernel.follow(domains)
        active = [domain for domain in domains if domain.active]
        if not self._decided and active:
            self._try(self._kernel, active)
        if self.source is self._kernel:
            self._find_wrapped(self._kernel, active)

    def _try(self, kernel: KernelSource, active: Sequence[Domain]) -> None:
        if any(kernel.reads(domain) for domain in active):
            self._decide(kernel, "the domains' processes can be read")
        elif self._failures + 1 < _TRIES:
            self._failures += 1
        else:
            kernel.follow(())
            self._decide(self._libvirt, "the domains' processes cannot be found below the proc root")

    def read(self, domains: Sequence[Domain], seconds: float) -> Mapping[str, Usage]:
        """The usage of the active ``domains``, as ``Source.read`` returns it."""
        wrapped = [domain for domain in domains if (domain.uuid, domain.id) in self._wrapped]
        if not wrapped:
            return self.source.read(domains, seconds)
        rest = [domain for domain in domains if (domain.uuid, domain.id) not in self._wrapped]
        return {**self.source.read(rest, seconds), **self._libvirt.read(wrapped, seconds)}

    def _find_wrapped(self, kernel: KernelSource, active: Sequence[Domain]) -> None:
        found = set()
        for domain in active:
            life = (domain.uuid, domain.id)
            if life in self._wrapped:
                found.add(life)
            elif kernel.wrapped(domain):
                found.add(life)
                log.warning(
                    "the process of domain %s runs no vCPU, so its usage is read from libvirt: "
                    "is its emulator started by a wrapper?",
                    domain.name,
                )
        self._wrapped = frozenset(found)

    def _decide(self, source: Source, reason: str) -> None:
        self.source, self.reason, self._decided = source, reason, True
        self.log_choice()
