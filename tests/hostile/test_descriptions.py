"""Descriptions of domains that libvirt keeps and that expat refuses, or that are huge: read by both programs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import libvirt
import pytest

from hostile.descriptions import DOMAIN, ODD
from virtpoise_balancer.execute.worker import probe
from virtpoise_balancer.execute.worker.needs import needs
from virtpoise_exporter.virt.xml import domain_facts, network_forward

pytestmark = pytest.mark.hostile

OWN = "<p:placement xmlns:p='urn:virtpoise:1'><apart>db</apart></p:placement>"
MOST_MIB = 30


@pytest.fixture
def connection() -> Iterator[libvirt.virConnect]:
    """libvirt's test driver: it parses and writes descriptions as its QEMU driver does."""
    opened = libvirt.open("test:///default")
    yield opened
    opened.close()


def running(connection: libvirt.virConnect, metadata: str) -> str:
    """The description of the domain `evil` with this metadata, as libvirt gives it. Another domain runs beside it."""
    for domain in connection.listAllDomains():
        if domain.name() == "evil":
            domain.destroy()
    xml = DOMAIN.format(entities="<!DOCTYPE domain [<!ENTITY foo 'bar'>]>", metadata=metadata)
    return str(connection.createXML(xml).XMLDesc())


@pytest.mark.parametrize("kind", ODD)
def test_metadata_that_libvirt_keeps_and_expat_refuses_hides_nothing(connection: libvirt.virConnect, kind: str) -> None:
    xml = running(connection, f"<o:other xmlns:o='urn:other'>{ODD[kind]}</o:other>{OWN}")
    read = domain_facts(xml)
    assert (read.vcpus, read.placement) == (2, (("apart", "db"),))
    assert {one.name: one.bound for one in probe.facts(connection).domains} == {"test": (), "evil": ()}
    assert needs(xml).hardware is not None


def test_a_placement_that_cannot_be_read_is_not_taken_for_none(connection: libvirt.virConnect) -> None:
    """Its domain would be moved against its owner's word. So its last facts stay."""
    xml = running(connection, "<p:placement xmlns:p='urn:virtpoise:1'><y:apart>db</y:apart></p:placement>")
    with pytest.raises(SyntaxError, match="unbound prefix"):
        domain_facts(xml)
    xml = running(
        connection, "<o:other xmlns:o='urn:virtpoise:1'><y:z/><o:placement><apart>db</apart></o:placement></o:other>"
    )
    with pytest.raises(ValueError, match="metadata cannot be read"):
        domain_facts(xml)


@pytest.mark.parametrize(
    "metadata",
    [
        f"<metadata>{OWN}</metadata>",
        f"<metadata xmlns:p='urn:virtpoise:1'>{OWN.replace(' xmlns:p=', ' a=')}</metadata>",
        f"<metadata>\n  <o:x xmlns:o='urn:o'><![CDATA[</metadata>]]></o:x>{OWN}\n</metadata>",
        f"<metadata><!-- {OWN.replace('db', 'no')} -->{OWN}</metadata>",
        f"<metadata><o:x xmlns:o='urn:o'>{'<a/>' * 20_000}</o:x>{OWN}</metadata>",
    ],
)
def test_the_own_element_is_found_wherever_it_stands(metadata: str) -> None:
    assert domain_facts(f"<domain>{metadata}<vcpu>2</vcpu></domain>").placement == (("apart", "db"),)


@pytest.mark.parametrize("metadata", ["", "<metadata/>", "<metadata y:a='1'/>", "<metadata></metadata>"])
def test_a_description_without_metadata_is_read(metadata: str) -> None:
    xml = f"<domain>{metadata}<vcpu>2</vcpu><devices><disk><driver><metadata_cache/></driver></disk></devices></domain>"
    assert (domain_facts(xml).vcpus, domain_facts(xml).placement) == (2, ())
    assert needs(xml).disks == ()


def test_the_metadata_of_a_network_hides_nothing_of_it() -> None:
    xml = "<network><metadata><y:z/></metadata><forward mode='route' dev='eth1'/></network>"
    assert network_forward(xml).device == "eth1"


class Domain:
    """One of libvirt's domains: ``answer`` is its description, or libvirt's error."""

    def __init__(self, answer: str | libvirt.libvirtError) -> None:
        self.answer = answer

    def XMLDesc(self) -> str:  # noqa: N802
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def name(self) -> str:
        return b"caf\xe9".decode()

    def UUIDString(self) -> str:  # noqa: N802
        return "u1"

    def snapshotNum(self) -> int:  # noqa: N802
        return 0


def error(code: int) -> libvirt.libvirtError:
    made = libvirt.libvirtError("no")
    made.err = (code, 0, "no", 0, None, None, None, 0, 0)
    return made


@pytest.mark.parametrize(
    "answer",
    [
        "<domain><name>x</wrong>",
        f"<domain><name>x</name><title>{'x' * 2**20}</title></domain>",
        error(libvirt.VIR_ERR_RPC),  # what libvirt answers where the description is larger than its messages
    ],
)
def test_a_domain_that_cannot_be_read_stays_and_says_why(answer: str | libvirt.libvirtError) -> None:
    bad, good = probe._needs([Domain(answer), Domain("<domain><name>a</name></domain>")], None)
    assert (bad.name, bad.uuid, bad.unread, good.name) == ("caf\ufffd", "u1", True, "a")
    assert [one.why for one in bad.bound] == ["its description cannot be read"]


def test_a_domain_that_has_ended_is_none_that_cannot_be_read() -> None:
    assert list(probe._needs([Domain(error(libvirt.VIR_ERR_NO_DOMAIN))], None)) == []


@pytest.mark.parametrize("reader", ["exporter", "balancer"])
@pytest.mark.parametrize("shape", ["names", "attributes", "texts"])
def test_four_mebibytes_of_metadata_take_little_memory(reader: str, shape: str) -> None:
    """Parsed, they took 190 MiB more: the exporter's unit allows 256 in all."""
    command = [sys.executable, "-m", "hostile.descriptions", reader, shape]
    said = subprocess.run(command, cwd=Path(__file__).parents[1], check=True, capture_output=True, text=True).stdout
    print(said)
    assert int(said) < MOST_MIB
