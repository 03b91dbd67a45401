"""One topic a file: read (I/O), parse (pure), emit (families).

``TOPICS`` lists them all; ``build`` makes their collectors.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Topic:
    """A collector as users know it: its name in flags and labels, its title, and whether it is about the host alone."""

    name: str
    title: str
    host: bool = False


TOPICS = (
    Topic("cpu", "CPU time of the host", host=True),
    Topic("memory", "Memory of the host", host=True),
    Topic("network", "Uplinks of the host", host=True),
    Topic("pressure", "Pressure on the host", host=True),
    Topic("numa", "NUMA nodes", host=True),
    Topic("speed", "Speed of a CPU", host=True),
    Topic("libvirt", "libvirt and its domains"),
    Topic("domains", "What the domains use"),
    Topic("block", "Disks"),
    Topic("balloon", "Memory as the guests see it"),
)
