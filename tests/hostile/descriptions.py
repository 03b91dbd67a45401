"""Descriptions of domains as a tenant may have them. Run as a program, it says what reading a huge one costs."""

from __future__ import annotations

import itertools
import string
import sys
from pathlib import Path

DOMAIN = (
    "{entities}<domain type='test'><name>evil</name><uuid>178a5bcc-0000-4000-8000-000000000001</uuid>"
    "<metadata>{metadata}</metadata><memory>1024</memory><vcpu>2</vcpu><os><type>hvm</type></os></domain>"
)
# What libvirt 9 accepts, keeps and writes, and expat refuses.
ODD = {
    "entity": "a&foo;b",
    "entity in an attribute": "<q a='x&foo;y'/>",
    "prefix that is not declared": "<y:z/>",
    "attribute twice": "<q xmlns:y='urn:y' xmlns:z='urn:y' y:a='1' z:a='2'/>",
    "two colons": "<a:b:c xmlns:a='urn:a'/>",
}
_MOST_OF_LIBVIRT = 4 * 2**20 - 3000
_SHAPES = {"names": "<{}/>", "attributes": '<{} b=""/>', "texts": "<b>{}\U0001f600</b>"}


def huge(shape: str) -> str:
    """A description of 4 MiB, each element another one."""
    names = ("".join(letters) for letters in itertools.product(string.ascii_letters, repeat=4))
    parts: list[str] = []
    size = 0
    while size < _MOST_OF_LIBVIRT:
        parts.append(_SHAPES[shape].format(next(names)))
        size += len(parts[-1].encode())
    return DOMAIN.format(entities="", metadata=f"<x:m xmlns:x='urn:x'>{''.join(parts)}</x:m>")


def _peak() -> int:
    """The most memory that this process had, in MiB."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) // 1024


def _cost(reader: str, shape: str) -> int:
    """What reading it added to the most memory of this process, in MiB."""
    made = huge(shape)
    Path("/proc/self/clear_refs").write_text("5")  # the most is what it is now
    if reader == "exporter":
        from virtpoise_exporter.virt.xml import domain_facts

        before = _peak()
        domain_facts(made)
    else:
        from virtpoise_balancer.execute.worker.connection import text_of
        from virtpoise_balancer.execute.worker.needs import needs

        before = _peak()
        needs(text_of(lambda: made))
    return _peak() - before


if __name__ == "__main__":
    print(_cost(*sys.argv[1:]))
