"""Texts of libvirt that are not UTF-8, which libvirt-python decodes strictly: in answers, and in its own errors."""

from __future__ import annotations

import ast
import ctypes
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import libvirt
import pytest

import virtpoise_balancer.execute.worker
import virtpoise_exporter
from hostile.test_exporter_items import Libvirtd, Listed, libvirtd  # noqa: F401 - a fixture
from virtpoise_balancer.execute.worker import domains, leaving, migration, probe
from virtpoise_exporter.virt.link import Link
from virtpoise_exporter.virt.session import Session

pytestmark = pytest.mark.hostile

CAFE = b"caf\xe9"
STRICT = {"name", "XMLDesc", "get_error_message", "getHostname", "getCapabilities", "getType", "usageID"}


def unreadable(*_arguments: object) -> Any:
    """What libvirt-python raises where an error's message is not UTF-8."""
    raise SystemError("<built-in function virDomainGetState> returned a result with an exception set")


class Domain:
    def __init__(self, name: bytes) -> None:
        self.encoded = name

    def name(self) -> str:
        return self.encoded.decode()

    def UUIDString(self) -> str:  # noqa: N802
        return f"u{len(self.encoded)}"

    def setAutostart(self, _on: bool) -> None:  # noqa: N802
        raise AssertionError

    def state(self) -> tuple[int, int]:
        return libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_MIGRATION


def test_libvirt_python_raises_no_error_of_libvirt_where_a_message_is_not_utf8() -> None:
    """The fact that the others rest on, shown with libvirt's test driver and a domain that is renamed as virsh can."""
    library = ctypes.CDLL("libvirt.so.0")
    pointer, name = ctypes.pythonapi.PyCapsule_GetPointer, ctypes.pythonapi.PyCapsule_GetName
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    name.restype, name.argtypes = ctypes.c_char_p, [ctypes.py_object]
    library.virDomainRename.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint]
    connection = libvirt.open("test:///default")
    xml = "<domain type='test'><name>{}</name>{}<memory>1</memory><os><type>hvm</type></os></domain>"
    renamed = connection.defineXML(xml.format("x", ""))
    try:
        assert library.virDomainRename(pointer(renamed._o, name(renamed._o)), CAFE, 0) == 0
        with pytest.raises((SystemError, UnicodeDecodeError)):
            connection.defineXML(xml.format("y", f"<uuid>{renamed.UUIDString()}</uuid>"))
    finally:
        renamed.undefine()
        connection.close()


def test_a_name_that_is_not_utf8_hides_no_domain_between_hosts() -> None:
    gone = SimpleNamespace(state=unreadable)
    connection = SimpleNamespace(listAllDomains=lambda _: [Domain(CAFE), gone, Domain(b"good!")])
    assert domains.between_hosts(connection) == [("u4", "caf\ufffd"), ("u5", "good!")]


def test_how_fast_a_domain_writes_is_measured_whatever_its_title(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migration, "_LOOK_SECONDS", 0.0)
    modes: list[int] = []
    domain = SimpleNamespace(
        info=lambda: [1, 0, 4096],
        XMLDesc=lambda: b"<title>caf\xe9</title><dirty-ring state='on'/>".decode(),
        startDirtyRateCalc=lambda _seconds, mode: modes.append(mode),
    )
    stats = {"dirtyrate.calc_status": libvirt.VIR_DOMAIN_DIRTYRATE_MEASURED, "dirtyrate.megabytes_per_second": 3}
    connection = SimpleNamespace(lookupByUUIDString=lambda _: domain, domainListGetStats=lambda *_: [(domain, stats)])
    assert migration.dirty_rate(connection, "u", 1) == 3 * 2**20
    assert modes == [libvirt.VIR_DOMAIN_DIRTYRATE_MODE_DIRTY_RING]


def test_an_error_that_cannot_be_read_takes_no_other_domain_and_no_host() -> None:
    bad, good = Domain(CAFE), Domain(b"good!")
    bad.XMLDesc = bad.snapshotNum = bad.autostart = unreadable  # type: ignore[attr-defined]
    good.XMLDesc, good.snapshotNum = (lambda: "<domain><name>good!</name></domain>"), unreadable  # type: ignore[attr-defined]
    assert [(one.name, one.unread) for one in probe._needs([bad, good], None)] == [
        ("caf\ufffd", True),
        ("good!", False),
    ]
    assert probe._may_abort(bad) is None
    assert probe._listed(unreadable) is None
    job = SimpleNamespace(jobInfo=lambda: [libvirt.VIR_DOMAIN_JOB_UNBOUNDED])
    connection = SimpleNamespace(lookupByUUIDString={"bad": SimpleNamespace(jobInfo=unreadable), "good": job}.get)
    assert list(leaving.leaving(connection, ["bad", "good"], {})) == ["good"]


def test_in_the_exporter_it_takes_that_domains_facts_alone(libvirtd: Libvirtd) -> None:  # noqa: F811
    libvirtd.xml["01"] = SystemError("<built-in function virDomainGetXMLDesc> returned a result with an exception set")
    listed = Listed().list(time.monotonic())
    assert [domain.facts.vcpus for domain in listed.domains] == [2, 0, 2, 2]


def test_the_thread_that_lists_domains_survives_an_error_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refused(libvirt.libvirtError):  # type: ignore[misc]
        def get_error_message(self) -> str:
            return CAFE.decode()

    class Ended(BaseException):
        pass

    def refuse(*_arguments: object) -> Session:
        raise Refused("no")

    written: list[str] = []

    def write(text: str, *given: object) -> None:  # the log's format escapes the byte
        written.append(text % given)
        raise Ended

    monkeypatch.setattr("virtpoise_exporter.virt.link.log", SimpleNamespace(warning=write))
    monkeypatch.setattr("virtpoise_exporter.virt.link.Session", refuse)
    with pytest.raises(Ended):
        Link("qemu:///system", lambda _: None)._run()
    assert written == ["libvirt at qemu:///system is gone, trying again: caf\udce9"]


def strict_calls(node: ast.AST, *, guarded: bool = False) -> Iterator[ast.Call]:
    """The calls of libvirt's texts that stand in no argument of ``text_of``."""
    if isinstance(node, ast.Call):
        if isinstance(node.func, ast.Name) and node.func.id == "text_of":
            guarded = True
        if isinstance(node.func, ast.Attribute) and node.func.attr in STRICT and not guarded:
            yield node
    for child in ast.iter_child_nodes(node):
        yield from strict_calls(child, guarded=guarded)


@pytest.mark.parametrize("package", [virtpoise_exporter, virtpoise_balancer.execute.worker])
def test_each_text_of_libvirt_is_read_by_text_of(package: Any) -> None:
    (folder,) = package.__path__
    found = [
        f"{path.relative_to(folder)}:{call.lineno}"
        for path in sorted(Path(folder).rglob("*.py"))
        for call in strict_calls(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert found == []
