"""Builds the exporter from its parts and runs it."""

import asyncio
import os
import resource
import signal
import socket
from contextlib import suppress

import psutil
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest

from virtpoise_exporter import __version__
from virtpoise_exporter.choice import SourceChoice
from virtpoise_exporter.clock import SYSTEM, Clock
from virtpoise_exporter.collectors.build import Parts, build
from virtpoise_exporter.errors import UsageError
from virtpoise_exporter.kernel.domains import KernelSource
from virtpoise_exporter.kernel.process import state_folder
from virtpoise_exporter.kernel.topology import TopologyKeeper
from virtpoise_exporter.log import log
from virtpoise_exporter.options import Options
from virtpoise_exporter.scrape import BackgroundCollector, Scraper
from virtpoise_exporter.systemd import notify, watchdog_seconds
from virtpoise_exporter.virt import source as libvirt_source
from virtpoise_exporter.virt.link import Link, start_event_loop
from virtpoise_exporter.virt.source import LibvirtSource
from virtpoise_exporter.virt.stats import Stats
from virtpoise_exporter.web.config import Watched
from virtpoise_exporter.web.server import Server, open_socket

FIRST_SECONDS = 3.0


class Exporter:
    """The exporter's parts, wired. Nothing is read, opened or started before ``run``."""

    def __init__(self, options: Options, clock: Clock = SYSTEM) -> None:
        self._options = options
        self._watched = Watched(options.web_config)
        psutil.PROCFS_PATH = str(options.procfs)
        folder = state_folder(options.uri)
        self._link = Link(options.uri, lambda domains: self._choice.follow(domains), clock)
        stats = Stats(self._link)
        self._choice = SourceChoice(
            KernelSource(options.procfs, folder, clock) if folder else None,
            LibvirtSource(stats.of(libvirt_source.GROUPS)),
        )
        self._topology = TopologyKeeper(options.procfs, options.sysfs, options.speeds, clock)
        parts = Parts(
            procfs=options.procfs,
            sysfs=options.sysfs,
            state=options.state,
            cpu_speed=options.cpu_speed,
            link=self._link,
            statistics=stats.of,
            choice=self._choice,
            topology=self._topology,
            clock=clock,
        )
        self._collectors = build(options.collectors, parts)

    def run(self) -> None:
        """Serves until SIGTERM or SIGINT. Raises UsageError if an address cannot be had."""
        _allow_descriptors()
        listening = [self._open(host, port) for host, port in self._options.addresses]
        self._topology.start()
        start_event_loop()
        self._link.start()
        for collector in self._collectors:
            if isinstance(collector, BackgroundCollector):
                collector.start()
        self._link.wait_for_first(FIRST_SECONDS)
        self._topology.wait_for_first(FIRST_SECONDS)
        self._choice.log_choice()
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        server = Server(Scraper(self._collectors, lambda: generate_latest(registry)).scrape, self._watched)
        asyncio.run(_serve(server, listening))

    def _open(self, host: str, port: int) -> socket.socket:
        try:
            listening = open_socket(host, port)
        except OSError as error:
            number = error.errno or 0  # below 0: a name that cannot be resolved
            reason = os.strerror(number) if number > 0 else error.strerror
            raise UsageError(f"--web.listen-address {host}:{port}: {reason}") from None
        except UnicodeError:
            raise UsageError(f"--web.listen-address {host}:{port}: expected a host's name or address") from None
        scheme = "https" if self._watched.current().tls else "http"
        bound = listening.getsockname()
        log.info("version %s serves %s of %s on %s port %d", __version__, scheme, self._options.uri, bound[0], bound[1])
        return listening


def _allow_descriptors() -> None:
    """Raises the limit of open files: each running domain needs one, and a shell's default is too low for a
    thousand.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):  # a sandbox may forbid it; then the limit stays as it is
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def _serve(server: Server, listening: list[socket.socket]) -> None:
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    tasks = [loop.create_task(server.serve(one)) for one in listening]
    tasks.append(loop.create_task(_pat_watchdog()))
    notify("READY=1")
    await ended.wait()
    notify("STOPPING=1")
    log.info("stopping")
    for task in tasks:
        task.cancel()


async def _pat_watchdog() -> None:
    """Reports to systemd's watchdog that the event loop runs."""
    seconds = watchdog_seconds()
    while seconds:
        notify("WATCHDOG=1")
        await asyncio.sleep(seconds)
