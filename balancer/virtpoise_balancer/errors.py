"""What can go wrong and is told to the user in one line."""


class VirtpoiseError(Exception):
    """Something failed that the user can understand and mend; the message is one line."""


class BadInput(VirtpoiseError):
    """An argument, a file or a reply is not what was expected; the message names the field. Exit status 2."""


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
