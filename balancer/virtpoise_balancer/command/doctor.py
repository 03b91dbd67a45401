"""Looks at everything that must be in place before domains can be moved, and says in one line each what is wrong and
how to mend it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from virtpoise_balancer.advice import warnings
from virtpoise_balancer.command.between_hosts import BetweenHosts, version
from virtpoise_balancer.command.check import asks, runs_as
from virtpoise_balancer.command.exporters import MOST_AHEAD_SECONDS, judge_exporter, judge_source, judge_uplinks
from virtpoise_balancer.command.finding import Finding, Severity
from virtpoise_balancer.config import Config
from virtpoise_balancer.errors import BadInput, ClockError, LibvirtError, MonitorError, NoStore, VirtpoiseError
from virtpoise_balancer.execute.facts import HostFacts
from virtpoise_balancer.execute.incompatible import judge
from virtpoise_balancer.execute.workers import Workers
from virtpoise_balancer.monitor.health import PrometheusHealth, exporter_health, prometheus_health
from virtpoise_balancer.monitor.observe import Observation
from virtpoise_balancer.monitor.sources import SOURCES
from virtpoise_balancer.monitor.targets import AdmittedTargets, RefusedTarget, TargetRefusal
from virtpoise_balancer.plan.unmatched import about_common, fit_no_group, like, notes, own_notes
from virtpoise_balancer.service import wiring
from virtpoise_balancer.tokens import read_tokens

_AT_ONCE = 16

# Called while hosts are asked: what is being done, how many are done, and how many there are.
ShowProgress = Callable[[str, float, float], None]


def examine(every: Sequence[Config], only: Sequence[str], show_progress: ShowProgress) -> Iterator[Finding]:
    """All findings, as they come. Those of a group begin with its name; what the groups share is examined once.

    ``every``: the configuration of each group that is asked about. ``only``: these hosts, each with every other; by
    default all. BadInput for a host there is not.
    """
    yield from _own(every)
    seen: list[Observation] = []
    for config in every:
        for one in _examine_group(config, only, show_progress, seen):
            yield replace(one, subject=f"{config.group}: {one.subject}") if config.group else one
    # What is configured for all groups is judged by all: an entry may be a host of any of them.
    if len(seen) == len(every[0].all_groups):
        yield from judge_hosts(every, [host.name for one in seen for host in one.snapshot.hosts])
        yield from judge_common_rules(every, seen)


def _examine_group(
    config: Config, only: Sequence[str], show_progress: ShowProgress, answers: list[Observation]
) -> Iterator[Finding]:
    """The findings of one group; what Prometheus has of it is added to ``answers``."""
    observer, now = wiring.make_observer(config), time.time()
    targets = AdmittedTargets(observer.admits)
    try:
        health = prometheus_health(observer.client, observer.matchers, targets, now)
        seen = observer.observe(now)
        exporters = exporter_health(observer.client, observer.matchers, targets, now)
    except MonitorError as error:
        yield Finding(
            subject="Prometheus",
            verdict=Severity.BAD,
            text=str(error),
            remedy="let both machines keep the time with NTP"
            if isinstance(error, ClockError)
            else "see prometheus.url, and whether Prometheus runs and lets this machine in",
        )
        return
    answers.append(seen)
    yield from judge_prometheus(config, health, seen)
    hosts = seen.snapshot.hosts
    yield from judge_source(config, seen)
    yield from judge_names(config, seen)
    unknown = set(only) - {host.name for host in hosts}
    if unknown:
        raise BadInput(f"{sorted(unknown)[0]}: no such host is scraped")
    for host in hosts:
        if not only or host.name in only:
            yield judge_exporter(host, health, exporters, SOURCES[config.prometheus.source])
            yield from judge_uplinks(host)
    yield from _libvirt(config, [host.name for host in hosts], set(only), show_progress)


# --- the balancer's own
# -------------------------------------------------------------------------------------------------


def _own(every: Sequence[Config]) -> Iterator[Finding]:
    """What all groups share: the user, the store, the tokens."""
    config = every[0]
    user = runs_as(config)
    if user != asks():
        # Root would also make the store, and the balancer could not write to it then.
        yield Finding(
            subject="user",
            verdict=Severity.WARNING,
            text=f"asked by root, but the balancer runs as {user}, who may read and reach less",
            remedy=f"runuser -u {user} -- virtpoise doctor",
        )
        return
    try:
        with closing(wiring.open_store(config, lambda _row: None)) as store:
            stores = [store.of_group(one.group, one.all_groups) if one.group else store for one in every]
            read = [one.recall(moved_since=0, ended_since=0, judged_since=0).broken for one in stores]
            broken = list(dict.fromkeys(row for rows in read for row in rows))
        if broken:
            yield Finding(
                subject="store",
                verdict=Severity.WARNING,
                text=f"{len(broken)} rows cannot be read and are left out, such as {broken[0]}",
                remedy="restore it from a backup, if what they say is missed",
            )
        else:
            yield Finding(subject="store", verdict=Severity.GOOD, text=config.state.url)
    except NoStore:
        yield _no_store(config)
    except VirtpoiseError as error:
        yield Finding(
            subject="store", verdict=Severity.BAD, text=str(error), remedy="run it as the user that owns state.url"
        )
    if config.web.token_file is None:
        return
    try:
        names = ", ".join(read_tokens(config.web.token_file))
        yield Finding(subject="tokens", verdict=Severity.GOOD, text=f"may change something: {names}")
    except BadInput as error:
        yield Finding(
            subject="tokens", verdict=Severity.BAD, text=str(error), remedy="mend the file: NAME:TOKEN, mode 0600"
        )


def _no_store(config: Config) -> Finding:
    folder = (config.state.file or Path("/")).parent
    if not os.access(folder, os.W_OK | os.X_OK):
        return Finding(
            subject="store",
            verdict=Severity.BAD,
            text=f"{folder}: {asks()} may make no store there" if folder.exists() else f"{folder}: no such folder",
            remedy=f"make the folder and give it to the user who runs the balancer: chown {asks()}: {folder}",
        )
    text = f"{config.state.url}: the balancer makes it when it first runs"
    return Finding(subject="store", verdict=Severity.GOOD, text=text)


# --- Prometheus and the exporters
# ---------------------------------------------------------------------------------------


def judge_prometheus(config: Config, health: PrometheusHealth, seen: Observation) -> Iterator[Finding]:
    """Whether Prometheus answers, has the right time and has figures of the hosts."""
    version = f"version {health.version}" if health.version else "it does not report its version"
    yield Finding(subject="Prometheus", verdict=Severity.GOOD, text=f"{config.prometheus.url} answers, {version}")
    ahead = health.ahead_seconds
    if ahead is None:
        yield Finding(subject="clock of Prometheus", verdict=Severity.NOT_KNOWN, text="it does not report the time")
    elif abs(ahead) > MOST_AHEAD_SECONDS:
        yield Finding(
            subject="clock of Prometheus",
            verdict=Severity.BAD,
            text=f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} this machine's",
            remedy="let both machines keep the time with NTP",
        )
    else:
        yield Finding(subject="clock of Prometheus", verdict=Severity.GOOD, text="agrees with this machine's")
    if not seen.snapshot.hosts:
        yield Finding(
            subject="hosts",
            verdict=Severity.BAD,
            text=f"Prometheus has figures of no host with {config.prometheus.matchers or 'any label'}",
            remedy=f"start {SOURCES[config.prometheus.source].services} on each host and have Prometheus scrape it; see "
            "prometheus.source and prometheus.matchers",
        )
    for target in seen.refused.named:
        yield judge_refused(target)
    for warning in seen.warnings:
        yield Finding(subject="Prometheus", verdict=Severity.WARNING, text=f"warns: {warning}")


def judge_names(config: Config, seen: Observation) -> Iterator[Finding]:
    """What the policy names and Prometheus has not, and what else is likely a mistake in the configuration."""
    for note in own_notes(notes(seen.snapshot, config.policy), config.policy, config.common_policy):
        yield _noted(note)
    for warning in warnings(config):
        yield Finding(
            subject="configuration", verdict=Severity.WARNING, text=warning, remedy="see docs/configuration.md"
        )


def judge_common_rules(every: Sequence[Config], seen: Sequence[Observation]) -> Iterator[Finding]:
    """What the groups' common policy names and no group has that it applies to."""
    found = {config.group: notes(one.snapshot, config.policy) for config, one in zip(every, seen, strict=True)}
    common = {config.group: about_common(config.policy, config.common_policy) for config in every}
    for note in dict.fromkeys(
        note for group in found for note in fit_no_group(group, found, common) if note.startswith(common[group])
    ):
        yield _noted(note)


def _noted(note: str) -> Finding:
    return Finding(
        subject="policy.rules",
        verdict=Severity.WARNING,
        text=note,
        remedy="name hosts and domains as `virtpoise snapshot` does",
    )


def judge_hosts(every: Sequence[Config], names: Collection[str]) -> Iterator[Finding]:
    """The entries of libvirt.hosts that are no host's name."""
    for name in sorted({name for config in every for name in config.libvirt.hosts} - set(names)):
        yield Finding(
            subject="libvirt.hosts",
            verdict=Severity.WARNING,
            text=f"no target is called {name!r}{like(name, names)}",
            remedy="name hosts as Prometheus does: a target's instance without its port",
        )


def judge_refused(target: RefusedTarget) -> Finding:
    """One line on a target that is not taken for a host."""
    remedies = {
        TargetRefusal.NOT_A_HOST: "have Prometheus set instance to the host's name, and see who else can set it",
        TargetRefusal.NOT_ADMITTED: "if it is a host of the group, add it to libvirt.hosts or libvirt.pattern",
    }
    return Finding(
        subject=f"target '{target.instance}'",
        verdict=Severity.WARNING,
        text=f"refused: {target.why}",
        remedy=remedies[target.reason],
    )


# --- libvirt
# ------------------------------------------------------------------------------------------------------------


def _libvirt(config: Config, names: Sequence[str], only: set[str], show_progress: ShowProgress) -> Iterator[Finding]:
    known: dict[str, HostFacts] = {}
    with Workers() as workers, ThreadPoolExecutor(max_workers=_AT_ONCE) as pool:
        asked = wiring.make_hosts(config, workers)

        def ask(name: str) -> HostFacts | str:
            try:
                return asked.facts(name)
            except LibvirtError as error:
                return str(error)

        for number, (name, answer) in enumerate(zip(names, pool.map(ask, names), strict=True), 1):
            show_progress("asks each host's libvirt", number, len(names))
            if isinstance(answer, HostFacts):
                known[name] = answer
            if not only or name in only or isinstance(answer, str):
                yield judge_libvirt(name, config.libvirt.uri_of(name), answer)
                if isinstance(answer, HostFacts) and any(domain.disks or domain.unlocked for domain in answer.domains):
                    yield judge_locks(name, answer)
        yield from judge_encryption(config.migration.encryption)
        pairs = {
            source: [other for other in known if other != source and (not only or source in only or other in only)]
            for source in known
        }
        total, done = sum(len(others) for others in pairs.values()), 0
        between = BetweenHosts(hosts=asked, known=known, peer_uri_of=config.libvirt.peer_uri_of)
        facts = judge(dict(zip(known, pool.map(between.record, known), strict=True)))
        for findings in pool.map(lambda source: between.findings(source, pairs[source], facts), known):
            done += len(findings)
            show_progress("asks each host for every other", done, total)
            yield from findings


def judge_libvirt(name: str, uri: str, answer: HostFacts | str) -> Finding:
    """Whether the host's libvirt can be used. ``answer``: its answer, or why there is none."""
    if isinstance(answer, str):
        return Finding(
            subject=f"libvirt of {name}",
            verdict=Severity.BAD,
            text=answer,
            remedy=f"try: virsh -c {uri} list; and see libvirt.uri and libvirt.hosts",
        )
    hypervisor = answer.hypervisor_version
    versions = (
        f"libvirt {version(answer.libvirt_version)}, hypervisor {version(hypervisor) if hypervisor else 'unknown'}"
    )
    if answer.may_abort is False:
        return Finding(
            subject=f"libvirt of {name}",
            verdict=Severity.WARNING,
            text=f"{versions}; this account may abort no migration, so one that exceeds migration.timeout_seconds goes on",
            remedy='give it org.libvirt.api.domain.write, or live with it: see docs/security.md, "Two accounts with the '
            'fewest rights"',
        )
    return Finding(subject=f"libvirt of {name}", verdict=Severity.GOOD, text=versions)


def judge_encryption(encryption: str) -> Iterator[Finding]:
    """A finding, where memory must be encrypted in flight, that it is not known whether it can be: libvirt reports
    nothing of it.
    """
    if encryption == "required":
        yield Finding(
            subject="migration.encryption",
            verdict=Severity.NOT_KNOWN,
            text="required, and libvirt does not report whether the hosts' QEMU has its certificates",
            remedy="migrate a domain between each two hosts by hand: virsh migrate --live --p2p --tls; "
            'see docs/security.md, "Memory in flight"',
        )


def judge_locks(name: str, facts: HostFacts) -> Finding:
    """Whether disks are locked, so that two copies of a domain cannot write to them.

    Libvirt does not report its lock manager.
    """
    subject = f"disk locks of {name}"
    open_ = [(domain.name, domain.unlocked) for domain in facts.domains if domain.unlocked]
    if not open_:
        return Finding(
            subject=subject,
            verdict=Severity.GOOD,
            text="QEMU locks the image files of its running domains, where their file system passes locks on",
        )
    domain, disks = open_[0]
    more = f" and {len(open_) - 1} more domains" if len(open_) > 1 else ""
    return Finding(
        subject=subject,
        verdict=Severity.NOT_KNOWN,
        text=f"QEMU does not lock {', '.join(disks[:3])} of {domain}{more}, and libvirt does not report whether it does",
        remedy='have virtlockd or sanlock lock disks: lock_manager = "lockd" in qemu.conf of all hosts; see docs/install.md, "Disk locks"',
    )
