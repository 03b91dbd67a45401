"""Puts the exporter together."""

from pathlib import Path

import psutil
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest

from virtpoise_exporter import __version__
from virtpoise_exporter.cli import Options
from virtpoise_exporter.collectors.cpu import CpuCollector
from virtpoise_exporter.collectors.domains import DomainsCollector
from virtpoise_exporter.collectors.libvirt import LibvirtCollector
from virtpoise_exporter.collectors.memory import MemoryCollector
from virtpoise_exporter.collectors.network import NetworkCollector
from virtpoise_exporter.collectors.pressure import PressureCollector
from virtpoise_exporter.errors import UsageError
from virtpoise_exporter.kernel.domains import KernelSource
from virtpoise_exporter.kernel.process import state_folder
from virtpoise_exporter.log import log
from virtpoise_exporter.scrape import Collector, Scraper
from virtpoise_exporter.server import serve
from virtpoise_exporter.virt.link import Link, start_event_loop


class Exporter:
    """The exporter's parts, wired."""

    def __init__(self, options: Options) -> None:
        psutil.PROCFS_PATH = str(options.procfs)
        self._options = options
        self._link = Link(options.uri)
        source = KernelSource(options.procfs, state_folder(options.uri) or Path("/nonexistent"))
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        available: dict[str, Collector] = {
            collector.name: collector
            for collector in (
                CpuCollector(),
                MemoryCollector(),
                NetworkCollector(options.procfs, options.sysfs),
                PressureCollector(options.procfs),
                LibvirtCollector(self._link),
                DomainsCollector(self._link, source, options.procfs, options.sysfs),
            )
        }
        self._scraper = Scraper((available[name] for name in options.collectors), lambda: generate_latest(registry))

    def start(self) -> None:
        """Opens the addresses, then connects to libvirt in the background. Raises UsageError."""
        for host, port in self._options.addresses:
            try:
                serve(host, port, self._scraper.scrape)
            except OSError as error:
                raise UsageError(f"--web.listen-address {host}:{port}: {error.strerror or error}") from None
            log.info("version %s serves http://%s:%d/metrics of %s", __version__, host, port, self._options.uri)
        start_event_loop()
        self._link.start()
