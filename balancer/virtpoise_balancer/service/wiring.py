"""Makes the parts that a configuration describes. Making one asks no one; only opening the store touches the disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from virtpoise_balancer.errors import BadInput, NoStore

if TYPE_CHECKING:  # a command that needs one part must not wait for the others to be imported
    from virtpoise_balancer.clock import Clock
    from virtpoise_balancer.config import Config
    from virtpoise_balancer.config.migration import Migration
    from virtpoise_balancer.control.cycle import Cycle, Possible
    from virtpoise_balancer.execute.accounts import LibvirtAccounts
    from virtpoise_balancer.execute.executor import Executor, LibvirtExecutor
    from virtpoise_balancer.execute.inventory import Inventory
    from virtpoise_balancer.execute.libvirt_hosts import LibvirtHosts
    from virtpoise_balancer.execute.migrate import Migrator
    from virtpoise_balancer.execute.reach import Reach
    from virtpoise_balancer.execute.transfer import Transfer
    from virtpoise_balancer.execute.workers import Workers
    from virtpoise_balancer.knowledge.leader import LeaderLock
    from virtpoise_balancer.knowledge.store import Store
    from virtpoise_balancer.model import MigrationOutcome, Move
    from virtpoise_balancer.monitor.observe import Observer


def make_observer(config: Config) -> Observer:
    """The observer of a group, with the configured queries and hosts."""
    from virtpoise_balancer.monitor.client import PrometheusClient
    from virtpoise_balancer.monitor.observe import Observer
    from virtpoise_balancer.monitor.sources import SOURCES

    client = PrometheusClient(
        url=config.prometheus.url,
        timeout_seconds=config.prometheus.timeout_seconds,
        access=config.prometheus.access(),
    )
    return Observer(
        client=client,
        step_seconds=config.interval_seconds,
        scrape_interval_seconds=config.scrape_interval_seconds,
        delay_seconds=config.prometheus.delay_seconds,
        consecutive=config.policy.cpu.consecutive,
        saturation_ratio=config.policy.saturation_ratio,
        source=SOURCES[config.prometheus.source],
        replica_label=config.prometheus.replica_label,
        queries=config.prometheus.queries,
        matchers=config.prometheus.matchers,
        admits=config.libvirt.admission(),
    )


def make_store(config: Config, left_out: Callable[[str], None], *, upgrade: bool = False) -> Store:
    """The opened store, made if there is none; of a group's own configuration, the store of the group.

    ``left_out``: takes a line for each row that cannot be read.

    ``upgrade``: an older one is brought up to date; only for the balancer that acts.
    """
    from virtpoise_balancer.knowledge.store import Store

    _store_exists(config)
    store = Store.open(config.state.url, upgrade=upgrade, password_file=config.state.password_file, left_out=left_out)
    return store.of_group(config.group, config.all_groups) if config.group else store


def open_store(config: Config, left_out: Callable[[str], None]) -> Store:
    """The store that the balancer has made. NoStore before that. ``left_out``: as in ``make_store``.

    A command makes none: it would belong to whoever calls the command, often root, and the balancer could not write to
    it.
    """
    if not _store_exists(config):
        raise NoStore(f"state.url: {config.state.url}: there is no store yet; the balancer makes it when it first runs")
    return make_store(config, left_out)


def _store_exists(config: Config) -> bool:
    """Whether the store exists. BadInput where this process may not use its file: SQLite would only report "unable to
    open" or "read-only".
    """
    from virtpoise_balancer.tokens import user_name

    file = config.state.file
    if file is None:  # a database on a server
        return True
    try:
        owner = user_name(file.stat().st_uid)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise BadInput(f"state.url: {config.state.url}: cannot be opened: {error.strerror}") from None
    if not os.access(file, os.R_OK | os.W_OK):
        asks = user_name(os.geteuid())
        raise BadInput(
            f"state.url: {config.state.url}: {asks} may not write to it, since it belongs to {owner}; if {asks} runs the "
            f"balancer: chown {asks}: {file}*"
        )
    return True


def make_lock(config: Config) -> LeaderLock:
    """The lock of the balancer that acts."""
    if file := config.state.file:
        from virtpoise_balancer.knowledge.leader import FileLock

        return FileLock(file)
    from virtpoise_balancer.knowledge.advisory import AdvisoryLock

    return AdvisoryLock(config.state.url, config.state.password_file, config.interval_seconds)


def make_hosts(config: Config, workers: Workers) -> LibvirtHosts:
    """The hosts' libvirt daemons, with the configured addresses and timeouts."""
    from virtpoise_balancer.execute.libvirt_hosts import LibvirtHosts

    return LibvirtHosts(
        uri_of=config.libvirt.uri_of,
        peer_uri_of=config.libvirt.peer_uri_of,
        address_of=config.migration.address_of,
        transfer=_transfer(config.migration),
        connect_timeout_seconds=config.libvirt.connect_timeout_seconds,
        copies=config.migration.copy_storage,
        workers=workers,
    )


def _transfer(migration: Migration) -> Transfer:
    from virtpoise_balancer.execute.transfer import Throttle, Transfer

    throttle = Throttle(
        initial_percent=round(migration.throttle_initial_ratio * 100),
        increment_percent=round(migration.throttle_increment_ratio * 100),
    )
    return Transfer(
        encrypted=migration.encryption == "required",
        connections=migration.parallel,
        compression=None if migration.compression == "off" else migration.compression,
        zstd_level=migration.zstd_level if migration.compression == "zstd" else None,
        xbzrle_cache_bytes=migration.xbzrle_cache_mib << 20 if migration.compression == "xbzrle" else None,
        throttle=throttle if migration.auto_converge else None,
        max_downtime_seconds=migration.max_downtime_seconds,
    )


def make_migrator(config: Config, workers: Workers) -> Migrator:
    """What makes one migration, with the configured bounds."""
    from virtpoise_balancer.execute.migrate import Migrator

    return Migrator(
        hosts=make_hosts(config, workers),
        timeout_seconds=config.migration.timeout_seconds,
        stop_grace_seconds=config.migration.stop_grace_seconds,
        throttles=config.migration.auto_converge,
        bandwidth=config.migration.bandwidth_at,
    )


def make_accounts(
    config: Callable[[], Config],
    workers: Workers,
    store: Store,
    clock: Clock,
    on_end: Callable[[Move, MigrationOutcome], None],
) -> LibvirtAccounts:
    """What accounts for migrations and copies. ``config``: the current configuration at each call."""
    from virtpoise_balancer.execute.accounts import LibvirtAccounts
    from virtpoise_balancer.execute.copies import Copies
    from virtpoise_balancer.execute.reconciler import Reconciler

    def hosts() -> LibvirtHosts:
        return make_hosts(config(), workers)

    return LibvirtAccounts(Reconciler(hosts, store, on_end, clock), Copies(hosts))


def make_executor(
    config: Config,
    workers: Workers,
    accounts: LibvirtAccounts,
    reach: Reach,
    inventory: Inventory,
    leads: Callable[[], bool],
) -> LibvirtExecutor:
    """What carries out the moves of plans, within the policy's limits."""
    from virtpoise_balancer.execute.executor import LibvirtExecutor
    from virtpoise_balancer.plan.stream import limits_of

    def ask(hosts: Sequence[str]) -> None:
        reach.ask(hosts)
        silent = reach.silence().silent
        inventory.look_again([host for host in hosts if host not in silent])

    def inquire(move: Move) -> None:
        inventory.ask([move], skip=reach.silence().silent, acts=True)

    return LibvirtExecutor(
        make_migrator(config, workers),
        accounts.reconciler,
        ask,
        inquire,
        limits=limits_of(config.policy),
        clock=accounts.reconciler.clock,
        leads=leads,
    )


def make_reach(config: Callable[[], Config], workers: Workers) -> Reach:
    """What asks hosts whether they answer. ``config``: the current configuration at each call."""
    from virtpoise_balancer.execute.reach import Reach

    return Reach(lambda host: make_hosts(config(), workers).active_domains(host))


def make_inventory(config: Callable[[], Config], workers: Workers, store: Store, clock: Clock) -> Inventory:
    """What keeps what hosts' libvirt daemons report. ``config``: the current configuration at each call."""
    from virtpoise_balancer.execute.inventory import Inventory

    return Inventory(
        lambda: make_hosts(config(), workers), remember=store.remember_host, recall=store.host_facts, clock=clock
    )


def make_cycle(
    config: Config,
    store: Store,
    executor: Executor,
    accounts: LibvirtAccounts,
    clock: Clock,
    reach: Reach,
    shared: Callable[[], Mapping[str, str]] = dict,
    possible: Possible | None = None,
) -> Cycle:
    """The cycle of a group. ``shared``, ``possible``: as in Cycle."""
    from virtpoise_balancer.control.cycle import Cycle, NothingKnown

    return Cycle(
        observer=make_observer(config),
        store=store,
        executor=executor,
        policy=config.policy,
        measurement=config.measurement,
        clock=clock,
        mode=config.mode,
        silence=reach.silence,
        shared=shared,
        possible=possible or NothingKnown(),
        accounts=accounts,
        only_recommends=config.libvirt.only_recommends,
        post_copy=config.migration.post_copy,
    )
