"""What libvirt's XML says of a domain and of a host. Pure.

The XML comes from libvirtd, which wrote it itself from its own model: no document type, no entities. Only the metadata
is written by others: libvirt passes on what it was given, up to 4 MiB. So it is cut out before the rest is parsed.
Formats: https://libvirt.org/formatdomain.html, https://libvirt.org/formatcaps.html
"""

import re
from contextlib import suppress
from itertools import islice
from xml.etree import ElementTree

from virtpoise_exporter.virt.model import UNSEEN, Facts, Forward, Nic

# The element <placement> in a domain's <metadata>; docs/configuration.md explains the rules.
_PLACEMENT_NAMESPACE = "urn:virtpoise:1"
_PLACEMENT_RULES = ("together", "apart", "only-on", "never-on", "prefer", "ignore")
# Anyone who may edit a domain can write these, and each becomes a series in Prometheus.
_MOST_RULES = 16
_LONGEST_VALUE = 128
_MOST_NODES = 1024
# Beyond these a description, or what its metadata says of placement, is not parsed: a tree takes 50 times its text.
_MOST_DESCRIPTION = 2**20
_MOST_PLACEMENT = 2**16
_MOST = 2**64 - 1

_UNITS = {
    "bytes": 1,
    "b": 1,
    "KB": 1000,
    "KiB": 1024,
    "k": 1024,
    "MB": 10**6,
    "MiB": 2**20,
    "M": 2**20,
    "GiB": 2**30,
    "G": 2**30,
}


# What may stand in XML (https://www.w3.org/TR/xml/#charsets). libvirt writes more: what a title was set to, as it is.
_NO_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def _parse(xml: str) -> ElementTree.Element:
    """The root element. Characters that XML does not allow are replaced. Raises ParseError, ValueError."""
    if len(xml) > _MOST_DESCRIPTION:
        raise ValueError(f"it has more than {_MOST_DESCRIPTION} characters")
    return ElementTree.fromstring(_NO_XML.sub("\ufffd", xml))  # noqa: S314


_METADATA = re.compile(r"<metadata(?=[\s/>])[^>]*>")
_PLACEMENT = re.compile(rf"<((?:[\w.-]+:)?placement)\s[^<>]{{0,1000}}[\"']{_PLACEMENT_NAMESPACE}[\"'][^<>]*>")


def _cut(xml: str) -> tuple[str, str]:
    """A description without its metadata, and the metadata. These end with the last such tag: one inside may be a
    text.
    """
    begin = _METADATA.search(xml)
    if begin is None:
        return xml, ""
    last = xml.rfind("</metadata>", begin.end())
    end = begin.end() if last < 0 else last + len("</metadata>")
    return xml[: begin.start()] + xml[end:], xml[begin.start() : end]


def _own(metadata: str) -> ElementTree.Element | None:
    """The element <placement> of the metadata. Raises ParseError, ValueError.

    libvirt keeps what expat refuses (a prefix that nothing declares, an attribute twice, an entity). Where others wrote
    such a thing, or very much, the element is read by itself.
    """
    if _PLACEMENT_NAMESPACE not in metadata:
        return None
    if len(metadata) <= _MOST_PLACEMENT:
        with suppress(ElementTree.ParseError):
            return _parse(metadata).find(f"{{{_PLACEMENT_NAMESPACE}}}placement")
    begin = _PLACEMENT.search(metadata)
    if begin is None:
        raise ValueError("its metadata cannot be read")
    end = begin.end() if begin[0].endswith("/>") else metadata.find(f"</{begin[1]}>", begin.end()) + len(begin[1]) + 3
    if end - begin.start() > _MOST_PLACEMENT:
        raise ValueError(f"its <placement> has more than {_MOST_PLACEMENT} characters")
    return _parse(metadata[begin.start() : end])


def domain_facts(xml: str) -> Facts:
    """The facts of a domain; 0 or empty where the XML has nothing. Raises ParseError, ValueError."""
    xml, metadata = _cut(xml)
    root = _parse(xml)
    return Facts(
        vcpus=_vcpus(root.find("vcpu")),
        memory_bytes=_memory(root.find("currentMemory")) or _memory(root.find("memory")),
        nics=tuple(nic for element in root.iterfind("devices/interface") if (nic := _nic(element))),
        disks=tuple(device for element in root.iterfind("devices/disk") if (device := _disk(element))),
        balloon_period_seconds=_period(root.find("devices/memballoon/stats")),
        memory_maximum_bytes=_memory(root.find("memory")),
        hugepages=_hugepages(root),
        placement=_placement(_own(metadata)),
    )


def host_cpu(capabilities: str) -> tuple[str, str, str]:
    """The host's uuid, CPU model and architecture from the capabilities; empty where they are missing.

    Raises ParseError, ValueError.
    """
    root = _parse(capabilities)
    return (
        (root.findtext("host/uuid") or "").strip(),
        (root.findtext("host/cpu/model") or "").strip(),
        (root.findtext("host/cpu/arch") or "").strip(),
    )


def network_forward(xml: str) -> Forward:
    """How a libvirt network leaves the host (https://libvirt.org/formatnetwork.html#connectivity).

    Raises ParseError, ValueError.
    """
    forward = _parse(_cut(xml)[0]).find("forward")
    if forward is None:
        return Forward()
    interface = forward.find("interface")
    return Forward(
        mode=forward.get("mode", "nat"),
        device=forward.get("dev", "") or (interface.get("dev", "") if interface is not None else ""),
    )


def _placement(element: ElementTree.Element | None) -> tuple[tuple[str, str], ...]:
    """Each rule once. ``virsh metadata`` leaves the inner elements without a namespace, an XML editor may give them
    one.
    """
    if element is None:
        return ()
    asked = ((child.tag.rpartition("}")[2], (child.text or "").strip()) for child in element)
    good = (
        (rule, "" if rule == "ignore" else value)
        for rule, value in asked
        if rule == "ignore" or (rule in _PLACEMENT_RULES and 0 < len(value) <= _LONGEST_VALUE)
    )
    return tuple(sorted(islice(dict.fromkeys(good), _MOST_RULES)))


def _vcpus(element: ElementTree.Element | None) -> int:
    if element is None:
        return 0
    return _number(element.get("current") or element.text or 0)


def _memory(element: ElementTree.Element | None) -> int:
    if element is None:
        return 0
    return _size(element.text or 0, element)


def _size(number: str | int, element: ElementTree.Element) -> int:
    return _number(number) * _UNITS.get(element.get("unit", "KiB"), 1024)


def _number(text: str | int) -> int:
    """Raises ValueError also for what libvirt does not count to: Prometheus refuses a page with a larger figure."""
    number = int(text)
    if not 0 <= number <= _MOST:
        raise ValueError(f"expected a number from 0 to {_MOST}")
    return number


def _hugepages(root: ElementTree.Element) -> tuple[tuple[int, int], ...]:
    """The memory in static huge pages by their size, 0 for the host's default: of the guest's NUMA nodes that a page
    names, and of the rest if it names none.
    """
    asked = root.find("memoryBacking/hugepages")
    if asked is None:
        return ()
    rest = _memory(root.find("memory"))
    cells = {
        int(cell.get("id", number)): _size(cell.get("memory", 0), cell)
        for number, cell in enumerate(root.iterfind("cpu/numa/cell"))
    }
    found: dict[int, int] = {}
    elsewhere: int | None = None if asked.findall("page") else 0
    for page in asked.iterfind("page"):
        size = _size(page.get("size", 0), page)
        if nodes := page.get("nodeset"):
            memory = sum(cells.get(node, 0) for node in numbers(nodes))
            found[size] = found.get(size, 0) + memory
            rest -= memory
        else:
            elsewhere = size
    if elsewhere is not None:
        found[elsewhere] = found.get(elsewhere, 0) + max(rest, 0)
    return tuple(sorted(found.items()))


def numbers(nodeset: str) -> set[int]:
    """The numbers in libvirt's notation: ``0-3,^2,7``. Raises ValueError."""
    found: set[int] = set()
    for part in nodeset.split(","):
        first, _, last = part.strip().removeprefix("^").partition("-")
        some = range(int(first), min(int(last or first), _MOST_NODES) + 1)
        found = found - set(some) if part.strip().startswith("^") else found | set(some)
    return found


def _period(element: ElementTree.Element | None) -> int:
    return _number(element.get("period", 0)) if element is not None else 0


def _disk(element: ElementTree.Element) -> str:
    """The disk's device; empty for a drive without a medium, which has no counters."""
    target = element.find("target")
    return target.get("dev", "") if target is not None and element.find("source") is not None else ""


def _nic(element: ElementTree.Element) -> Nic | None:
    target, source, backend = element.find("target"), element.find("source"), element.find("backend")
    kind = element.get("type", "")
    if kind == "user" and backend is not None and backend.get("type") == "passt":
        kind = "passt"
    device = target.get("dev", "") if target is not None else ""
    mac = element.find("mac")
    if not device and kind in UNSEEN and mac is not None:
        device = mac.get("address", "")
    if not device:
        return None
    attributes = source.attrib if source is not None else {}
    return Nic(
        device=device,
        kind=kind,
        bridge=attributes.get("bridge", ""),
        lower=attributes.get("dev", ""),
        network=attributes.get("network", ""),
    )
