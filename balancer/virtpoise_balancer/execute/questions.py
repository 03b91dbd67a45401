"""Questions to hosts about one domain, in which a host that does not answer is an answer as well."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping

from virtpoise_balancer.errors import LibvirtError
from virtpoise_balancer.execute.hosts import Hosts
from virtpoise_balancer.execute.verdict import SETTLED, Answer, Silent
from virtpoise_balancer.model import Progress

# How often several hosts that have a domain active are asked again, before it counts as active on all of them.
_TIMES_AGAIN = 2


def presence(hosts: Hosts, host: str, uuid: str) -> Answer:
    """How the domain stands on the host, or that it does not answer."""
    try:
        return hosts.presence(host, uuid)
    except LibvirtError as error:
        return Silent(str(error))


def confirmed(hosts: Hosts, answers: Mapping[str, Answer], uuid: str) -> dict[str, Answer]:
    """The answers of hosts that were asked in this order, with later ones where several have the domain active.

    While the last of these answered, the domain may have gone there from one that was asked before. A late answer may
    show what was there when it was asked for. So each is asked again in the same order, and once more, since the domain
    may also have come back in between.
    """
    found = dict(answers)
    for _ in range(_TIMES_AGAIN):
        active = [host for host, answer in found.items() if answer in SETTLED]
        found |= {host: presence(hosts, host, uuid) for host in active[:-1]}
        if not any(found[host] in SETTLED for host in active[:-1]):
            break
        found[active[-1]] = presence(hosts, active[-1], uuid)
    return found


def running_job(hosts: Hosts, host: str, uuid: str) -> Progress | Silent | None:
    """The domain's running migration on the host, None where it has none, or that the host does not answer."""
    try:
        return hosts.progress(host, uuid)
    except LibvirtError as error:
        return Silent(str(error))


def descriptions(hosts: Hosts, places: Iterable[str], uuid: str) -> str:
    """What distinguishes the copies of a domain on these hosts, in words."""
    found = []
    for host in places:
        with contextlib.suppress(LibvirtError):
            found.append(f"On {host}: {hosts.describe(host, uuid)}")
    return "; ".join(found)
