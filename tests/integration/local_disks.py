"""Disks that lie on their host alone: images of 24 MiB in a storage pool of its folder /run/images."""

from virtpoise_lab.lab import Lab

POOL = "<pool type='dir'><name>images</name><target><path>/run/images</path></target></pool>"
DISK = (
    "<disk type='file' device='disk'><driver name='qemu' type='raw' cache='none'/><source file='/run/images/{0}.img'/>"
    "<target dev='vda' bus='virtio'/></disk>"
)
VOLUME = (
    "<volume><name>{0}.img</name><capacity unit='MiB'>24</capacity><allocation>0</allocation>"
    "<target><format type='raw'/></target></volume>"
)


def create_image(lab: Lab, host: str, name: str, mib: int) -> None:
    """Create an image in the host's pool, that begins with ``mib`` MiB of random bytes."""
    lab.host(host).connection().storagePoolLookupByName("images").createXML(VOLUME.format(name))
    junk = f"dd if=/dev/urandom of=/run/images/{name}.img bs=1M count={mib} conv=notrunc 2>&1"
    lab.host(host).run(["sh", "-ec", junk])
