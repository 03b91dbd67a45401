"""What is known of a host and its domains at one moment. Frozen values; nothing here talks to libvirt."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from virtpoise_exporter.exposition import SharedLabels, labels
from virtpoise_exporter.metrics import DOMAIN

RUNNING = 1

# virDomainState and the reasons of each state, in the words of virsh (libvirt-domain.h)
STATES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("no state", ("unknown",)),
    (
        "running",
        (
            "unknown",
            "booted",
            "migrated",
            "restored",
            "from snapshot",
            "unpaused",
            "migration canceled",
            "save canceled",
            "event wakeup",
            "crashed",
            "post-copy",
            "post-copy failed",
        ),
    ),
    ("blocked", ("unknown",)),
    (
        "paused",
        (
            "unknown",
            "user",
            "migrating",
            "saving",
            "dumping",
            "I/O error",
            "watchdog",
            "from snapshot",
            "shutting down",
            "creating snapshot",
            "crashed",
            "starting up",
            "post-copy",
            "post-copy failed",
            "API error",
        ),
    ),
    ("shutdown", ("unknown", "user")),
    (
        "shutoff",
        ("unknown", "shutdown", "destroyed", "crashed", "migrated", "saved", "failed", "from snapshot", "daemon"),
    ),
    ("crashed", ("unknown", "panicked")),
    ("suspended", ("unknown",)),
)


def state_words(state: int, reason: int) -> tuple[str, str]:
    """libvirt's words for a state and its reason. A number that this version does not know stays a number."""
    if not 0 <= state < len(STATES):
        return str(state), str(reason)
    word, reasons = STATES[state]
    return word, reasons[reason] if 0 <= reason < len(reasons) else str(reason)


# Kinds of network devices that the kernel of the host does not carry: handed through from hardware, or served by
# another program (a switch in user space, passt, QEMU itself).
UNSEEN = frozenset({"hostdev", "vdpa", "vhostuser", "passt", "user"})


@dataclass(frozen=True, slots=True)
class Nic:
    """A network device of a domain. ``device`` is its end on the host, attached to a bridge or a lower device.

    Where it has none, its traffic passes the kernel by, and ``device`` is its MAC address.
    """

    device: str
    kind: str
    bridge: str = ""
    lower: str = ""
    network: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """The facts in a domain's XML. They seldom change, and are read again after an event."""

    vcpus: int = 0
    memory_bytes: int = 0
    nics: tuple[Nic, ...] = ()
    disks: tuple[str, ...] = ()
    balloon_period_seconds: int = 0  # how often its balloon driver reports its memory; 0: never
    memory_maximum_bytes: int = 0
    hugepages: tuple[tuple[int, int], ...] = ()  # (size of a page, memory in such pages); size 0: the host's default
    placement: tuple[tuple[str, str], ...] = ()  # what its metadata asks for: (rule, group or hosts)


@dataclass(frozen=True)
class Domain:
    """A domain on this host. ``id`` is -1 while it is inactive and changes with every start."""

    uuid: str
    name: str
    id: int
    state: int
    reason: int
    facts: Facts = field(default_factory=Facts)

    @property
    def active(self) -> bool:
        return self.id != -1

    @property
    def running(self) -> bool:
        return self.state == RUNNING

    @cached_property
    def labels(self) -> SharedLabels:
        """The labels that all series of the domain share."""
        return SharedLabels(DOMAIN, labels(DOMAIN, (self.name, self.uuid)))


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What does not change while libvirtd runs; empty where libvirt has not said it."""

    hostname: str = ""
    host_uuid: str = ""
    cpu_model: str = ""
    arch: str = ""
    hypervisor: str = ""
    libvirt_version: str = ""


@dataclass(frozen=True, slots=True)
class Forward:
    """How a libvirt network leaves the host: ``mode`` as in its XML, empty if it does not; ``device`` if one is
    named.
    """

    mode: str = ""
    device: str = ""


@dataclass(frozen=True, slots=True)
class Inventory:
    """All domains of the host as libvirt listed them at ``taken_at``, and the networks they use.

    ``held_since`` has the uuids of domains that libvirt does not answer about now, with the time of its last answer:
    their states are of that time. ``facts_from`` has those whose XML cannot be had or read now, with the time of their
    facts. All times are monotonic seconds.
    """

    host: HostFacts
    domains: tuple[Domain, ...]
    networks: Mapping[str, Forward]
    taken_at: float
    held_since: Mapping[str, float] = field(default_factory=dict)
    facts_from: Mapping[str, float] = field(default_factory=dict)
