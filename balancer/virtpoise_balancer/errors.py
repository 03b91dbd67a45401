"""The errors that reach the user, each as one line."""

from __future__ import annotations

from collections.abc import Sequence

_MOST_PROBLEMS = 20


def first_ones(problems: Sequence[str]) -> list[str]:
    """The first 20 problems, and how many more there are, if any."""
    more = [f"and {len(problems) - _MOST_PROBLEMS} more"] if len(problems) > _MOST_PROBLEMS else []
    return [*problems[:_MOST_PROBLEMS], *more]


class VirtpoiseError(Exception):
    """Something failed that the user can understand and mend; the message is one line, if it is not about several
    fields.
    """


class BadInput(VirtpoiseError):
    """An argument, a file or a reply is not what was expected; the message names the field. Exit status 2.

    With several fields the message has a line for each.
    """

    @classmethod
    def of(cls, source: str, problems: Sequence[str]) -> BadInput:
        """All problems of a file, the first 20 of them by name."""
        return cls("\n".join(f"{source}: {problem}" for problem in first_ones(problems)))


class NoStore(BadInput):
    """There is no store: the balancer has not run yet, or state.url is not its own."""


class NotKnown(BadInput):
    """A host or a domain is named that there is not."""


class Refused(VirtpoiseError):
    """An order that cannot be followed now; nothing was changed. Exit status 1."""


class MonitorError(VirtpoiseError):
    """Prometheus could not be asked, or its answer cannot be used."""


class ClockError(MonitorError):
    """This machine's clock and that of Prometheus differ, so no figure can be dated."""


class MonitorBadReply(MonitorError):
    """Something answered, but it is not a Prometheus: asking again does not help."""


class LibvirtError(VirtpoiseError):
    """A libvirt daemon could not be reached, or refused."""


class LibvirtSilent(LibvirtError):
    """A libvirt daemon did not answer in time."""


class NoRoom(LibvirtError):
    """A host makes no room for copies of disks, and has created nothing for them."""


class StoreError(VirtpoiseError):
    """The store cannot be read or written."""


class Deposed(StoreError):
    """This balancer does not act any more, so nothing of what it decided is written. ``why``: in words."""

    def __init__(self, why: str) -> None:
        super().__init__(f"this balancer no longer acts: {why}")
        self.why = why
