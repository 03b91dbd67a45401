"""Which groups of hosts a command is about."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from virtpoise_balancer.errors import BadInput, MonitorError, NotKnown

if TYPE_CHECKING:
    from virtpoise_balancer.config import Config

GroupOption = Annotated[
    str | None,
    typer.Option("--group", "-g", metavar="GROUP", help="The group of hosts, where the configuration has several."),
]


def settings_of_each(path: Path, group: str | None) -> tuple[Config, ...]:
    """The own configuration of each group, or of this one. BadInput when there is no such group."""
    from virtpoise_balancer.config import read_config

    whole = read_config(path)
    return tuple(whole.each_group.values()) if group is None else (whole.of_group(group),)


def settings_of_one(path: Path, group: str | None) -> Config:
    """The configuration of one group. BadInput when there are several and none is named."""
    found = settings_of_each(path, group)
    if len(found) > 1:
        raise BadInput(f"--group: expected one of {', '.join(one.group for one in found)}")
    return found[0]


def settings_of_host(path: Path, group: str | None, host: str) -> Config:
    """The own configuration of the group that has the host now, or had it when it was drained.

    NotKnown when there is none, MonitorError when Prometheus does not answer.
    """
    from contextlib import closing

    from virtpoise_balancer.service import wiring

    found = settings_of_each(path, group)
    if len(found) == 1:
        return found[0]
    failure: MonitorError | None = None
    having = []
    for one in found:
        try:
            if host in wiring.make_observer(one).members(time.time()):
                having.append(one)
        except MonitorError as error:
            failure = error
    if not having:
        with closing(wiring.open_store(found[0], lambda _row: None)) as store:
            order = store.standing_orders().drains.get(host)
        having = [one for one in found if order is not None and one.group == order.group]
    if len(having) == 1:
        return having[0]
    if failure is not None:
        raise failure
    names = ", ".join(one.group for one in having or found)
    raise NotKnown(f"{host}: {'is in the groups' if having else 'no such host is scraped in the groups'} {names}")
