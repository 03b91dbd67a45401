"""What is installed where."""

from dataclasses import dataclass

from installed.manual import Administrator
from virtpoise_lab.machines.machine import Machine

# kvm3 has the newer Debian, and a guest of a machine type that the older one's QEMU knows.
HOSTS = {"kvm1": "bookworm", "kvm2": "bookworm", "kvm3": "trixie"}
GUESTS = {"vm1": "kvm1", "vm2": "kvm1", "vm3": "kvm2", "vm4": "kvm3"}
# The manager has none of its own.
LIBVIRT = (
    "libvirtd.service",
    "libvirtd.socket",
    "libvirtd-ro.socket",
    "libvirtd-admin.socket",
    "libvirt-guests.service",
)


@dataclass(frozen=True)
class Installation:
    """kvm1, kvm2, kvm3 and manager, installed up to the page's first steps."""

    machines: dict[str, Machine]
    administrator: Administrator

    @property
    def manager(self) -> Machine:
        return self.machines["manager"]
