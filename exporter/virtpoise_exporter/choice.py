"""Chooses the source of the domains' usage: the kernel where its files can be read, else libvirt."""

from collections.abc import Sequence

from virtpoise_exporter.kernel.domains import KernelSource
from virtpoise_exporter.log import log
from virtpoise_exporter.source import Source
from virtpoise_exporter.virt.model import Domain

_TRIES = 3  # a domain may be listed a moment before its process can be found


class SourceChoice:
    """Chooses once, when the first domain runs. Changing between two sources would make counters jump."""

    def __init__(self, kernel: KernelSource | None, libvirt: Source) -> None:
        """``kernel`` is None if the domains do not run on this machine."""
        self._kernel = kernel
        self._libvirt = libvirt
        self._failures = 0
        self._decided = kernel is None
        self.source: Source = kernel or libvirt
        self.reason = "no domain's process has been seen yet" if kernel else "libvirt is on another machine"
        self._told = ""

    def tell(self) -> None:
        """Logs the source and the reason, unless that has been logged already."""
        if self.reason != self._told:
            self._told = self.reason
            log.info("the domains' usage is read from source %s: %s", self.source.name, self.reason)

    def follow(self, domains: Sequence[Domain]) -> None:
        """Takes a new list of domains. Called only by the thread that lists them."""
        if self._kernel is None:
            return
        if self.source is self._kernel:
            self._kernel.follow(domains)
        active = [domain for domain in domains if domain.active]
        if self._decided or not active:
            return
        if any(self._kernel.reads(domain) for domain in active):
            self._decide(self._kernel, "the domains' processes can be read")
        elif self._failures + 1 < _TRIES:
            self._failures += 1
        else:
            self._kernel.follow(())
            self._decide(self._libvirt, "the domains' processes cannot be found below the proc root")

    def _decide(self, source: Source, reason: str) -> None:
        self.source, self.reason, self._decided = source, reason, True
        self.tell()
