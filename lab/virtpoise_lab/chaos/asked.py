"""What libvirt itself reports of the domains, by fresh connections and within a bounded time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import libvirt

from virtpoise_lab.chaos.plan import RENAMED
from virtpoise_lab.errors import LabError
from virtpoise_lab.host import Host, connect

T = TypeVar("T")

_PATIENCE_SECONDS = 15.0
ACTIVE = ("running", "paused")
_WORDS = {
    libvirt.VIR_DOMAIN_RUNNING: "running",
    libvirt.VIR_DOMAIN_BLOCKED: "running",
    libvirt.VIR_DOMAIN_PAUSED: "paused",
    libvirt.VIR_DOMAIN_SHUTOFF: "shut off",
}


@dataclass(frozen=True)
class Standing:
    """How a domain stands on one host. ``busy``: a job of it runs there, or it is just being migrated to there.

    ``between``: a migration has paused it there.
    """

    state: str
    defined: bool
    busy: bool
    between: bool = False

    def __str__(self) -> str:
        words = [self.state, "" if self.defined else "not defined", "with a job" if self.busy else ""]
        words.append("between hosts" if self.between else "")
        return " ".join(word for word in words if word)


# domain -> host -> how it stands there
Places = dict[str, dict[str, Standing]]


def active(places: Places, domain: str) -> list[str]:
    """The hosts on which it is active."""
    return [host for host, standing in places.get(domain, {}).items() if standing.state in ACTIVE]


@contextmanager
def fresh(host: Host) -> Iterator[Any]:
    """A libvirt connection (virConnect) of its own."""
    connection = connect(host.uri)
    try:
        yield connection
    finally:
        with suppress(libvirt.libvirtError):
            connection.close()


def patiently(what: str, ask: Callable[[], T], seconds: float = _PATIENCE_SECONDS) -> T:
    """What ``ask`` returns. LabError for libvirt's errors, or when it does not return in time, and is left alone."""
    answers: list[T | Exception] = []

    def run() -> None:
        try:
            answers.append(ask())
        except Exception as error:
            answers.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if not answers:
        raise LabError(f"{what}: no answer within {seconds:g} s")
    answer = answers[0]
    if isinstance(answer, libvirt.libvirtError | OSError):
        raise LabError(f"{what}: {answer}") from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def on_host(host: Host) -> dict[str, Standing]:
    """The domains that a host's libvirt knows, by their first names."""

    def ask() -> dict[str, Standing]:
        with fresh(host) as connection:
            found = {}
            for known in connection.listAllDomains():
                with suppress(libvirt.libvirtError):  # it has just gone
                    found[known.name().removesuffix(RENAMED)] = _standing(known)
            return found

    return patiently(f"libvirt of {host.name}", ask)


def everywhere(hosts: tuple[Host, ...]) -> Places:
    """Where libvirt knows each domain."""
    places: Places = {}
    for host in hosts:
        for name, standing in on_host(host).items():
            places.setdefault(name, {})[host.name] = standing
    return places


def _standing(known: Any) -> Standing:
    number, reason = known.state()
    state = _WORDS.get(number, "in another state")
    between = (number, reason) == (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_MIGRATION)
    busy = False
    if state in ACTIVE:
        try:
            busy = known.jobInfo()[0] != libvirt.VIR_DOMAIN_JOB_NONE
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_OPERATION_UNSUPPORTED:
                raise
            busy = True  # it is being migrated to here
    return Standing(state, bool(known.isPersistent()), busy, between)
