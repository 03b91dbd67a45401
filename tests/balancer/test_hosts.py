"""Who a host is: a target's ``instance`` becomes the host of a libvirt URI and no other part of it."""

import ctypes
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv6Address
from pathlib import Path
from urllib.parse import unquote, urlsplit

import libvirt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from virtpoise_balancer import hosts, visible
from virtpoise_balancer.config import Config, parse_config
from virtpoise_balancer.errors import LibvirtError
from virtpoise_balancer.execute.workers import Workers
from virtpoise_balancer.web.server import listen
from virtpoise_exporter.web.server import open_socket

HOSTILE = (
    "x/system?command=/prog&a=:1",
    "x/system?netcat=/prog&a=",
    "x/system?no_verify=1",
    "x/system?no_verify=1#:9807",
    "x?keyfile=/etc/shadow",
    "x/session",
    "x#fragment",
    "root@x",
    "root:secret@x",
    "x%2fsystem%3fcommand=/prog",
    "x%00",
    "x\n",
    "x\n:9807",
    "x y",
    "x\x00",
    "-oProxyCommand=touch${IFS}/tmp/x",
    "-oProxyCommand=/prog:9807",
    "-h1",
    "h1-",
    "h1.-h2",
    "[::1",
    "::1]",
    "[::1]]:9807",
    "[[::1]]",
    "[h1]:9807",
    "[]",
    "[fe80::1%]",
    "[fe80::1%-o]:9807",
    "[fe80::1%eth0/system?command=/prog]:1",
    "[fe80::1%eth0%25]",
    "fe80::1%",
    "::1::2",
    "h1:99999",
    "h1:port",
    "h1:",
    ":9807",
    "",
    ".",
    "..",
    "h1..h2",
    "h1.",
    ".h1",
    "http://h1:9807/metrics",
    "qemu:///system",
    "h\u00f61",
    "h\u202e1",
    "\u0661\u0662",
    "\uff48\uff11",
    "127.1",
    "2130706433",
    "0x7f000001",
    "h.0x7f",
    "256.1.1.1",
    "01.2.3.4",
    "a" * 64,
    ".".join(["a" * 60] * 5),
    "../../etc/passwd",
    "$(touch /tmp/x)",
    "`x`",
    "x;y",
    "{host}",
    "\\x",
    "x\\n",
)
TEMPLATES = (
    "qemu+ssh://{host}/system",
    "qemu+ssh://root@{host}:2222/system?keyfile=/etc/virtpoise/key&no_tty=1",
    "qemu+tls://{host}.example.org/system",
    "qemu+tcp://mgmt-{host}",
)


class _Uri(ctypes.Structure):
    """What libvirt makes of a URI (virURI in its src/util/viruri.h)."""

    _fields_ = (
        ("scheme", ctypes.c_char_p),
        ("server", ctypes.c_char_p),
        ("user", ctypes.c_char_p),
        ("port", ctypes.c_int),
        ("path", ctypes.c_char_p),
        ("query", ctypes.c_char_p),
        ("fragment", ctypes.c_char_p),
    )


_parse = ctypes.CDLL("libvirt.so.0").virURIParse
_parse.restype = ctypes.POINTER(_Uri)


def parsed(uri: str) -> tuple[object, ...]:
    """Scheme, user, host, port, path, query and fragment as libvirt itself reads them."""
    found = _parse(uri.encode())
    assert found, uri
    got = found.contents
    return got.scheme, got.user, (got.server or b"").decode(), got.port, got.path, got.query, got.fragment


def _uri_or_none(template: str, instance: str) -> tuple[str, str] | None:
    """The host's name and its URI, or None where either is refused."""
    try:
        name = hosts.of_instance(instance)
        return name, hosts.uri_of(template, name)
    except hosts.NotAHost:
        return None


pieces = st.sampled_from(
    (*HOSTILE, "h1", "kvm1.example.org", "10.0.0.1", "[2001:db8::1]", "fe80::1%eth0", ":9807", "/", "?", "#", "@", "%")
)
instances = st.one_of(st.text(max_size=40), st.lists(pieces, max_size=4).map("".join), st.ip_addresses().map(str))


@given(st.sampled_from(TEMPLATES), instances)
def test_whatever_a_label_says_only_the_host_of_the_uri_is_its_own(template: str, instance: str) -> None:
    found = _uri_or_none(template, instance)
    if found is None:
        return
    name, uri = found
    wanted = list(parsed(template.replace("{host}", "h")))
    wanted[2] = str(wanted[2]).replace("h", name) if template != "qemu+tcp://mgmt-{host}" else f"mgmt-{name}"
    if "example.org" in template:
        wanted[2] = f"{name}.example.org"
    assert parsed(uri) == tuple(wanted)
    ours = urlsplit(uri)
    assert unquote(ours.hostname or "") == str(wanted[2]).lower()
    assert (ours.scheme, ours.path, ours.query, ours.fragment) == (
        urlsplit(template).scheme,
        urlsplit(template).path,
        urlsplit(template).query,
        "",
    )


@pytest.mark.parametrize("instance", HOSTILE)
def test_a_label_that_is_no_host_is_refused_where_it_enters(instance: str) -> None:
    with pytest.raises(hosts.NotAHost):
        hosts.of_instance(instance)


@pytest.mark.parametrize("name", [*HOSTILE, "[::1]", "h1:9807", "[::1]:9807"])
def test_a_name_from_elsewhere_is_refused_again_where_a_uri_is_made(name: str) -> None:
    with pytest.raises(LibvirtError) as refused:
        Config().libvirt.uri_of(name)
    assert str(refused.value).isprintable()


@pytest.mark.parametrize(
    ("instance", "name", "uri"),
    [
        ("h1:9807", "h1", "qemu+ssh://h1/system"),
        ("h1", "h1", "qemu+ssh://h1/system"),
        ("KVM_1.example.org:1", "KVM_1.example.org", "qemu+ssh://KVM_1.example.org/system"),
        ("10.0.0.1:9807", "10.0.0.1", "qemu+ssh://10.0.0.1/system"),
        ("[::1]:9807", "::1", "qemu+ssh://[::1]/system"),
        ("[::1]", "::1", "qemu+ssh://[::1]/system"),
        ("::1", "::1", "qemu+ssh://[::1]/system"),
        ("[2001:DB8:0:0::1]:9807", "2001:db8::1", "qemu+ssh://[2001:db8::1]/system"),
        ("[fe80::1%eth0]:9807", "fe80::1%eth0", "qemu+ssh://[fe80::1%25eth0]/system"),
        ("fe80::1%br0.100", "fe80::1%br0.100", "qemu+ssh://[fe80::1%25br0.100]/system"),
        ("3com.example:9807", "3com.example", "qemu+ssh://3com.example/system"),
    ],
)
def test_a_host_is_its_targets_instance_without_the_port(instance: str, name: str, uri: str) -> None:
    assert hosts.of_instance(instance) == name
    assert Config().libvirt.uri_of(name) == uri
    assert parsed(uri)[2] == name  # so libvirt connects to it


def test_a_targets_address_is_written_as_prometheus_reads_it() -> None:
    for name, address in (("h1", "h1:9807"), ("::1", "[::1]:9807"), ("fe80::1%eth0", "[fe80::1%eth0]:9807")):
        assert hosts.with_port(name, 9807) == address
        assert hosts.of_instance(address) == name


@contextmanager
def _program(folder: Path) -> Iterator[tuple[Path, Path]]:
    """A program, and the file that it leaves behind when it is run."""
    trace, program = folder / "ran", folder / "program"
    program.write_text(f"#!/bin/sh\ntouch {trace}\n")
    program.chmod(0o755)
    yield program, trace
    assert os.access(program, os.X_OK)


def connect(uri: str) -> None:
    with Workers() as workers:
        workers.ask(uri, "connect", (), connect_seconds=20, seconds=20, what=uri)


def test_no_label_has_libvirts_client_run_a_program(tmp_path: Path) -> None:
    """With the real client, over qemu+ssh: first that the attack is one, then that no label carries it out."""
    with _program(tmp_path) as (program, trace):
        label = f"x/system?command={program}&a=:1"
        with pytest.raises(LibvirtError):
            connect("qemu+ssh://{host}/system".replace("{host}", label.removesuffix(":1")))
        assert trace.exists(), "pasted into the URI the label runs the program"
        trace.unlink()
        for instance in (label, label.removesuffix(":1"), f"-oProxyCommand={program}", f"[::1%a/?command={program}]:1"):
            with pytest.raises(LibvirtError):
                connect(Config().libvirt.uri_of(instance))
            found = _uri_or_none(Config().libvirt.uri, instance)
            assert found is None
        assert not trace.exists()


def test_libvirts_client_connects_to_the_address_in_brackets() -> None:
    for name in ("::1", "fe80::1%lo"):
        with pytest.raises(libvirt.libvirtError, match=f"'{name}:1'"):
            libvirt.open(parse_config('libvirt: {uri: "qemu+tcp://{host}:1/system"}', "x").libvirt.uri_of(name))


@given(st.text(max_size=400))
def test_a_hostile_label_is_shown_on_one_line_of_printable_ascii(text: str) -> None:
    shown = visible.shown(text)
    assert shown.isascii()
    assert shown.isprintable()
    assert len(shown) <= 120


def test_both_daemons_listen_on_a_link_local_address() -> None:
    """As ``[ADDRESS%INTERFACE]:PORT``, on whatever interface of this machine has one."""
    found = [
        (fields[5], fields[0])
        for fields in (line.split() for line in Path("/proc/net/if_inet6").read_text().splitlines())
        if fields[3] == "20"  # of scope link
    ]
    if not found:
        pytest.skip("no interface of this machine has a link-local address")
    device, digits = found[0]
    address = str(IPv6Address(int(digits, 16)))
    for listening in (listen(f"[{address}%{device}]:0", tls=False), open_socket(f"{address}%{device}", 0)):
        with listening:
            bound = listening.getsockname()
            assert bound[0] == address
            assert bound[3] == socket.if_nametoindex(device)
