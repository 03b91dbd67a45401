"""The XML of a lab's domains (https://libvirt.org/formatdomain.html)."""

from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement, fromstring, register_namespace, tostring

from virtpoise_lab.artefacts import tsc_khz
from virtpoise_lab.console import command_line
from virtpoise_lab.model import DomainSpec

# Where every host has the same files for its guests, so that a guest may move to any of them.
BOOT = "/var/lib/libvirt/boot"
CONSOLES = "/run/consoles"
BRIDGE = "br0"
# What the monitor of its own (qmp.py) is called beside the console.
MONITOR = ".qmp"
_QEMU = "http://libvirt.org/schemas/domain/qemu/1.0"
register_namespace("qemu", _QEMU)


def xml(spec: DomainSpec, acceleration: str, share: float) -> str:
    """A domain that boots the lab's own guest; a paused one has no kernel, 16 MiB and never runs."""
    domain = Element("domain", type="kvm" if acceleration == "kvm" else "qemu")
    _texts(domain, name=spec.name, uuid=spec.uuid)
    SubElement(domain, "memory", unit="MiB").text = str(16 if spec.paused else spec.memory_mib)
    SubElement(domain, "vcpu").text = str(spec.vcpus)
    system = SubElement(domain, "os")
    SubElement(system, "type", arch="x86_64", machine="pc").text = "hvm"
    if not spec.paused:
        line = command_line(spec.name, spec.load, share, None if acceleration == "kvm" else tsc_khz())
        _texts(system, kernel=f"{BOOT}/kernel", initrd=f"{BOOT}/initramfs", cmdline=line)
    features = SubElement(domain, "features")
    SubElement(features, "acpi")
    if acceleration == "kvm":
        SubElement(domain, "cpu", mode="host-model")
    else:  # the cache of translated code would otherwise grow up to a quarter of the machine's memory
        SubElement(SubElement(features, "tcg"), "tb-cache", unit="MiB").text = "32"
    _texts(domain, on_crash="destroy")
    devices = SubElement(domain, "devices")
    SubElement(devices, "controller", type="usb", model="none")
    interface = SubElement(devices, "interface", type="bridge")
    SubElement(interface, "mac", address=_mac(spec.name))
    SubElement(interface, "source", bridge=BRIDGE)
    SubElement(interface, "model", type="virtio")
    SubElement(interface, "rom", enabled="no")
    if not spec.paused:
        serial = SubElement(devices, "serial", type="unix")
        SubElement(serial, "source", mode="bind", path=f"{CONSOLES}/{spec.name}")
    monitor = SubElement(domain, f"{{{_QEMU}}}commandline")
    for value in ("-qmp", f"unix:{CONSOLES}/{spec.name}{MONITOR},server=on,wait=off"):
        SubElement(monitor, f"{{{_QEMU}}}arg", value=value)
    return tostring(domain, encoding="unicode")


def without_system(
    spec: DomainSpec, acceleration: str, memory_mib: int, filling: str, image: Path | None = None
) -> Element:
    """A domain in which no system boots: its firmware idles, beside memory that is not zero and has to be sent.

    ``filling``: a file with what is in its memory, at the same path on each host. ``image``: of a disk that QEMU alone
    knows and locks: libvirt would migrate none that is on this machine's own file system.
    """
    root = fromstring(xml(replace(spec, paused=True), acceleration, 1.0))
    memory, line = root.find("memory"), root.find(f"{{{_QEMU}}}commandline")
    assert memory is not None
    assert line is not None
    memory.text = str(memory_mib)
    values = ["-device", f"loader,file={filling},addr=0x1000000,force-raw=on"]
    if image is not None:
        # In a slot that libvirt, which does not know of it, gives to nothing else.
        values += [
            "-drive",
            f"file={image},format=raw,if=none,id=image",
            "-device",
            "virtio-blk-pci,drive=image,addr=0x1d",
        ]
    for value in values:
        SubElement(line, f"{{{_QEMU}}}arg", value=value)
    return root


def _texts(parent: Element, **texts: str) -> None:
    for name, text in texts.items():
        SubElement(parent, name).text = text


def address(name: str) -> str:
    """The IPv4 address at which the domain's guest answers pings, on the network 10.79.0.0/16 of its host's bridge."""
    return "10.79.{}.{}".format(*(int(byte, 16) for byte in _mac(name).split(":")[-2:]))


def _mac(name: str) -> str:
    digest = sha256(name.encode()).hexdigest()
    return f"52:54:00:{digest[0:2]}:{digest[2:4]}:{digest[4:6]}"
