"""What a host's kernel, libvirt and Open vSwitch give, damaged at random places: each reader says so in its own way."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from xml.etree.ElementTree import ParseError

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.recording import RECORDED
from virtpoise_balancer.execute.worker.needs import needs
from virtpoise_exporter import metrics
from virtpoise_exporter.exposition import Family, render
from virtpoise_exporter.kernel.netdev import parse_default_route, parse_netdev
from virtpoise_exporter.kernel.openvswitch import parse_tables
from virtpoise_exporter.kernel.process import parse_schedstat, parse_stat, uuid_of
from virtpoise_exporter.virt.questions import text_of
from virtpoise_exporter.virt.xml import domain_facts, host_cpu, network_forward

pytestmark = pytest.mark.hostile

DOMAIN = b"""<domain type='kvm' id='3'><name>web</name><uuid>178a5bcc-0000-4000-8000-000000000000</uuid>
<metadata><p:placement xmlns:p="urn:virtpoise:1"><apart>databases</apart><only-on>h*</only-on></p:placement></metadata>
<memory unit='KiB'>1048576</memory><currentMemory unit='KiB'>524288</currentMemory><vcpu current='1'>2</vcpu>
<devices><disk type='file' device='disk'><source file='/a.qcow2'/><target dev='vda'/></disk>
<interface type='bridge'><source bridge='br0'/><target dev='vnet0'/></interface>
<memballoon model='virtio'><stats period='5'/></memballoon></devices></domain>"""
NETWORK = b"<network><name>n</name><forward mode='nat' dev='eth0'><interface dev='eth0'/></forward></network>"
HOST = b"<capabilities><host><uuid>u</uuid><cpu><arch>x86_64</arch><model>EPYC</model></cpu></host></capabilities>"
ROWS = {
    "Interface": [{"_uuid": ["uuid", "i"], "name": "vnet0", "type": "patch", "options": ["map", [["peer", "x"]]]}],
    "Port": [{"_uuid": ["uuid", "p"], "interfaces": ["uuid", "i"]}],
    "Bridge": [{"name": "br-int", "ports": ["set", [["uuid", "p"]]]}],
}


def of_text(read: Callable[[str], object]) -> Callable[[bytes], object]:
    """A reader of what libvirt-python gives: bytes that are not UTF-8 as lone surrogates."""
    return lambda content: read(content.decode("utf-8", "surrogateescape"))


def one_process(name: str) -> bytes:
    return next(path.read_bytes() for path in sorted((RECORDED / "proc").glob(name)))


READERS: dict[str, tuple[Callable[[bytes], object], bytes, tuple[type[Exception], ...]]] = {
    "domain": (of_text(domain_facts), DOMAIN, (ParseError, ValueError)),
    "needs": (of_text(needs), DOMAIN, (ParseError, ValueError)),
    "network": (of_text(network_forward), NETWORK, (ParseError,)),
    "host": (of_text(host_cpu), HOST, (ParseError,)),
    "stat": (parse_stat, one_process("1*/stat"), (ValueError, IndexError)),
    "schedstat": (parse_schedstat, one_process("1*/task/*/schedstat"), (ValueError,)),
    "cmdline": (uuid_of, one_process("1*/cmdline"), ()),
    "net/dev": (of_text(parse_netdev), (RECORDED / "proc/net/dev").read_bytes(), ()),
    "net/route": (
        of_text(parse_default_route),
        b"Iface\tDest\n" + b"eth0\t00000000\t0\t0003\t0\t0\t100\t00000000\n",
        (),
    ),
    "ovsdb": (
        lambda content: parse_tables(json.loads(content)),
        json.dumps(ROWS).encode(),
        (ValueError, LookupError, TypeError, AttributeError, RecursionError),
    ),
}
PIECES = (
    b"<",
    b">",
    b"&",
    b"\xff",
    b"\0",
    b"]]>",
    b"\xef\xbf\xbf",
    b"-1",
    b"9" * 5000,
    b"\xd9\xa1",
    b"[" * 3000,
    b"\n",
    b":",
)

damage = st.lists(
    st.tuples(
        st.floats(0, 1),
        st.integers(0, 30),
        st.one_of(st.binary(max_size=8), st.sampled_from(PIECES)),
    ),
    min_size=1,
    max_size=4,
)


def damaged(sample: bytes, places: list[tuple[float, int, bytes]]) -> bytes:
    """Some bytes at each place replaced by others."""
    for place, length, piece in places:
        at = int(place * len(sample))
        sample = sample[:at] + piece + sample[at + length :]
    return sample


@pytest.mark.parametrize("name", READERS)
@settings(deadline=None)
@given(places=damage)
def test_a_reader_of_damaged_input_raises_only_what_its_caller_expects(
    name: str, places: list[tuple[float, int, bytes]]
) -> None:
    read, sample, expected = READERS[name]
    read(sample)
    with suppress(*expected):
        read(damaged(sample, places))


@given(st.binary(max_size=60))
def test_any_name_is_one_line_of_the_exposition(name: bytes) -> None:
    family = Family(metrics.DOMAIN_INFO)
    family.add(1, text_of(lambda: name.decode("utf-8", "surrogateescape")), "u")
    assert render([family]).decode().count("\n") == 3  # help, type and the sample
