"""The page /: the newest cycle's sentence, running migrations, what needs attention, and all hosts."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass

from starlette.requests import Request

from virtpoise_balancer.explain import wording
from virtpoise_balancer.model import DomainState, HostState, Snapshot, count_samples
from virtpoise_balancer.web.kept import LONGEST_ARGUMENT, KeptAnswer
from virtpoise_balancer.web.page.parts import (
    Anchor,
    Figure,
    HostRow,
    domain_link,
    host_link,
    host_row,
    plural,
)
from virtpoise_balancer.web.page.writer import Writer
from virtpoise_balancer.web.state import HostStatus, State, domains_by_host

# In a group of at most this many hosts each domain is listed; in a larger one it is only a segment of its host's bar.
_MOST_HOSTS_WITH_DOMAINS = 60
_MOST_ATTENTION = 12

# Hosts that are shown at once.
MOST_ROWS = 250

Note = tuple[Anchor | None, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownPart:
    """Which hosts of a large group are shown: ``first`` to ``last`` of those that have ``find`` in their name or a
    domain's.
    """

    page: int
    pages: int
    first: int
    last: int
    of: int
    find: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """What the page / shows.

    ``attention``: each with the host or domain that it is about; ``named``: whether the rows list their domains.

    ``gaps``: what the exporters do not report. ``part``: which hosts the rows are; None if they are all.
    """

    figures: tuple[Figure, ...]
    gaps: tuple[str, ...]
    attention: tuple[Note, ...]
    rows: tuple[HostRow, ...]
    named: bool
    part: ShownPart | None


def overview_page(writer: Writer, request: Request) -> KeptAnswer:
    """The page /, its hosts by name or, with ``?sort=load``, by load. Of a large group ``page`` and ``find`` choose."""
    asked = {name: request.query_params.get(name, "")[:LONGEST_ARGUMENT].strip() for name in ("sort", "page", "find")}
    by_load = asked["sort"] == "load"
    state = writer.state
    found = overview(
        state,
        writer.context.published.statuses(state),
        by_load=by_load,
        find=asked["find"],
        page=int(asked["page"]) if re.fullmatch("[0-9]{1,6}", asked["page"]) else 1,
    )
    return writer.page(request, "overview.html", found=found, by_load=by_load)


def overview(
    state: State, statuses: Sequence[HostStatus], *, by_load: bool = False, find: str = "", page: int = 1
) -> Overview | None:
    """None before the first cycle that has a snapshot. ``statuses``: of the state's hosts, in the snapshot's order.

    A group of many hosts is shown in parts: ``page`` counts them from 1, and ``find`` is a part of a host's or domain's
    name. There the hosts that need attention come first.
    """
    snapshot = state.snapshot
    if snapshot is None:
        return None
    on = domains_by_host(snapshot)
    named = len(snapshot.hosts) <= _MOST_HOSTS_WITH_DOMAINS
    cut = len(snapshot.hosts) > MOST_ROWS
    silent = state.silent
    chosen = list(zip(snapshot.hosts, statuses, strict=True))
    if cut and find:
        chosen = [one for one in chosen if _holds(one[1], find.lower())]
    if by_load:
        chosen.sort(key=lambda one: -1.0 if one[1].cpu_ratio is None else one[1].cpu_ratio, reverse=True)
    elif cut:
        chosen.sort(key=lambda one: not _needs_attention(one[1], silent))
    pages = max(math.ceil(len(chosen) / MOST_ROWS), 1)
    page = min(max(page, 1), pages)
    begin = (page - 1) * MOST_ROWS
    rows = tuple(
        host_row(state.policy, host, found, on.get(host.name, ()), named=named)
        for host, found in chosen[begin : begin + MOST_ROWS]
    )
    return Overview(
        figures=_figures(snapshot, statuses),
        gaps=state.observation.gaps if state.observation else (),
        attention=_attention(state, statuses),
        rows=rows,
        named=named,
        part=ShownPart(page=page, pages=pages, first=begin + 1, last=begin + len(rows), of=len(chosen), find=find)
        if cut
        else None,
    )


def _holds(host: HostStatus, wanted: str) -> bool:
    return wanted in host.name.lower() or any(wanted in name.lower() for name in host.domains)


def _needs_attention(host: HostStatus, silent: Container[str]) -> bool:
    return (
        host.state is not HostState.ACTIVE
        or host.overloaded
        or bool(host.consecutive or host.penalty_seconds)
        or host.name in silent
    )


def _figures(snapshot: Snapshot, statuses: Sequence[HostStatus]) -> tuple[Figure, ...]:
    loads = {found.name: found.cpu_ratio for found in statuses if found.cpu_ratio is not None}
    unknown = len(statuses) - len(loads)
    running = sum(domain.state is DomainState.RUNNING for domain in snapshot.domains)
    others = len(snapshot.domains) - running
    figures = [
        Figure(label="Hosts", value=str(len(statuses)), note=f"{unknown} unknown" if unknown else "all known"),
        Figure(label="Domains", value=str(running), note=f"running, {others} not" if others else "running"),
    ]
    if loads:
        top = max(loads, key=lambda name: loads[name])
        figures.append(Figure(label="Highest load", value=wording.percent(loads[top]), note=top))
        figures.append(
            Figure(
                label="Mean load",
                value=wording.percent(statistics.fmean(loads.values())),
                note=f"± {wording.percent(statistics.pstdev(loads.values()))} between hosts",
            )
        )
    return tuple(figures)


def _attention(state: State, statuses: Sequence[HostStatus]) -> tuple[Note, ...]:
    """What an administrator should look at, the most at once being bounded."""
    silent = state.silent
    found = [note for host in statuses for note in _of_host(host, silent)]
    found += _of_group(state, {host.name for host in statuses})
    if len(found) > _MOST_ATTENTION:
        return (*found[:_MOST_ATTENTION], (None, f"and {len(found) - _MOST_ATTENTION} more"))
    return tuple(found)


def _of_host(host: HostStatus, silent: Mapping[str, str]) -> Iterator[Note]:
    link = host_link(host.name)
    if host.state is HostState.UNKNOWN:
        yield link, f"{'is to be drained, but ' if host.draining else ''}is unknown: {host.why_unknown}"
    elif host.state is HostState.DRAINING:
        yield link, _drained(host)
    if host.state is not HostState.UNKNOWN and host.name in silent:
        yield link, f"does not answer the balancer, so no move to it is possible: {silent[host.name]}"
    if host.overloaded:
        measured = f"{host.resource.use} {wording.percent(host.ratio)}, {count_samples(host.consecutive)}"
        yield link, f"is overloaded: {measured}"
    if host.penalty_seconds:
        attempts = plural(host.failures, "failed attempt")
        yield link, f"is in back-off for {wording.duration(host.penalty_seconds)}, after {attempts}"


def _drained(host: HostStatus) -> str:
    """How far a drain is. Only the host's libvirt can report that no domain is left."""
    left = len(host.domains) if host.active_domains is None else host.active_domains
    if left:
        return f"is draining: {plural(left, 'domain')} left"
    return (
        "is drained" if host.active_domains == 0 else "is draining: its libvirt has not yet reported that it is empty"
    )


def _of_group(state: State, seen: set[str]) -> Iterator[Note]:
    """What is wrong with the group as a whole. ``seen``: the names of the snapshot's hosts."""
    for name, order in sorted(state.drains.items()):
        if order.draining and name not in seen:
            yield None, f"{name} is to be drained, but is no longer seen (virtpoise undrain {name} returns it)"
    for open_one in state.unsettled:
        hosts = " and ".join(open_one.hosts)
        yield None, f"{open_one.text}; nothing is moved from or to {hosts}"
    observation = state.observation
    if observation is None:
        return
    names = {domain.uuid: domain.name for domain in observation.snapshot.domains} if observation.duplicates else {}
    for uuid in sorted(observation.duplicates.keys() - {one.uuid for one in state.unsettled}):
        yield domain_link(names.get(uuid, uuid), uuid), "is seen running on more than one host"
    for target in state.refused.named:
        yield None, f"target '{target.instance}' is refused as a host: {target.why}"
    for note in state.plan.notes if state.plan else ():
        yield None, note
    for warning in observation.warnings:
        yield None, f"Prometheus warns: {warning}"
