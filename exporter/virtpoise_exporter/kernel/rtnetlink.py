"""Where the packets of a VXLAN leave the host, from the kernel's routing tables: sysfs has neither its remote nor them.

Protocol: rtnetlink(7), ``linux/if_link.h``, ``linux/rtnetlink.h`` and ``linux/neighbour.h``.
"""

import socket
import struct
from collections.abc import Iterator, Mapping
from typing import NamedTuple

_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_NLM_F_REQUEST = 0x1
_NLM_F_DUMP = 0x300
_RTM_GETLINK = 18
_RTM_GETROUTE = 26
_RTM_GETNEIGH = 30
_IFLA_IFNAME = 3
_IFLA_LINKINFO = 18
_IFLA_INFO_KIND = 1
_IFLA_INFO_DATA = 2
_IFLA_VXLAN_GROUP = 2
_IFLA_VXLAN_LINK = 3
_IFLA_VXLAN_LOCAL = 4
_IFLA_VXLAN_GROUP6 = 16
_IFLA_VXLAN_LOCAL6 = 17
_NDA_DST = 1
_RTA_DST = 1
_RTA_SRC = 2
_RTA_OIF = 4
# Of attributes that hold others.
_NESTED = 0x8000
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_LINK = struct.Struct("=BxHiII")
_ROUTE = struct.Struct("=BBBBBBBBI")
_NEIGHBOUR = struct.Struct("=BxxxiHBB")
_INDEX = struct.Struct("=i")
_AF_BRIDGE = 7
_FAMILY = {4: socket.AF_INET, 16: socket.AF_INET6}  # by the length of an address
_MOST_BYTES = 1 << 16
_TIMEOUT_SECONDS = 2.0

Attributes = Mapping[int, bytes]


class _Message(NamedTuple):
    kind: int
    body: bytes


def vxlan_leaves_by(name: str) -> str | None:
    """The device by which a VXLAN's packets leave: the one it names, or that of the route to its remote.

    Empty where no route leads there; None where that is not known: it is no VXLAN, or it learns its remotes and has
    none now. Of several remotes the first counts.
    """
    try:
        tunnel = _vxlan(name)
        if tunnel is None:
            return None
        if device := _number(tunnel.get(_IFLA_VXLAN_LINK)):
            return socket.if_indextoname(device)
        remote = tunnel.get(_IFLA_VXLAN_GROUP) or tunnel.get(_IFLA_VXLAN_GROUP6)
        if remote is None or not any(remote):
            remote = _first_remote(socket.if_nametoindex(name))
        local = tunnel.get(_IFLA_VXLAN_LOCAL) or tunnel.get(_IFLA_VXLAN_LOCAL6) or b""
        return None if remote is None else _route(remote, local)
    except (OSError, ValueError, struct.error):
        return None


def _vxlan(name: str) -> Attributes | None:
    encoded = name.encode("utf-8", "surrogateescape") + b"\0"
    asked = _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + _packed(_IFLA_IFNAME, encoded)
    for answer in _ask(_RTM_GETLINK, asked):
        info = dict(_attributes(dict(_attributes(answer[_LINK.size :])).get(_IFLA_LINKINFO, b"")))
        if info.get(_IFLA_INFO_KIND, b"").rstrip(b"\0") == b"vxlan":
            return dict(_attributes(info.get(_IFLA_INFO_DATA, b"")))
    return None


def _first_remote(index: int) -> bytes | None:
    """The first remote among the addresses that the VXLAN forwards to. There may be thousands: one message is read."""
    for answer in _ask(_RTM_GETNEIGH, _LINK.pack(_AF_BRIDGE, 0, index, 0, 0), dump=True):
        _, owner, *_ = _NEIGHBOUR.unpack_from(answer)
        remote = dict(_attributes(answer[_NEIGHBOUR.size :])).get(_NDA_DST)
        if owner == index and remote and any(remote):
            return remote
    return None


def _route(remote: bytes, local: bytes) -> str:
    """The device of the route to an address, by the rules for what the host itself sends from the ``local`` one."""
    source = local if any(local) and len(local) == len(remote) else b""
    head = _ROUTE.pack(_FAMILY[len(remote)], 8 * len(remote), 8 * len(source), 0, 0, 0, 0, 0, 0)
    asked = head + _packed(_RTA_DST, remote) + (_packed(_RTA_SRC, source) if source else b"")
    try:
        (answer,) = _ask(_RTM_GETROUTE, asked)
    except ConnectionError:
        return ""
    device = _number(dict(_attributes(answer[_ROUTE.size :])).get(_RTA_OIF))
    return socket.if_indextoname(device) if device else ""


def _ask(kind: int, asked: bytes, *, dump: bool = False) -> list[bytes]:
    """The bodies of the messages of the kernel's first answer. OSError; ConnectionError where it has none to give."""
    head = _HEADER.pack(_HEADER.size + len(asked), kind, _NLM_F_REQUEST | (_NLM_F_DUMP if dump else 0), 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
        kernel.settimeout(_TIMEOUT_SECONDS)
        kernel.send(head + asked)
        messages = list(_messages(kernel.recv(_MOST_BYTES)))
    for message in messages:
        if message.kind == _NLMSG_ERROR and (error := -_INDEX.unpack_from(message.body)[0]):
            raise ConnectionError(error, "the kernel refuses to answer")
    return [message.body for message in messages if message.kind not in (_NLMSG_ERROR, _NLMSG_DONE)]


def _messages(answer: bytes) -> Iterator[_Message]:
    while len(answer) >= _HEADER.size:
        length, kind, *_ = _HEADER.unpack_from(answer)
        if length < _HEADER.size:
            raise ValueError("a message without its own header")
        yield _Message(kind, answer[_HEADER.size : length])
        answer = answer[_aligned(length) :]


def _attributes(text: bytes) -> Iterator[tuple[int, bytes]]:
    while len(text) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(text)
        if length < _ATTRIBUTE.size:
            raise ValueError("an attribute without its own header")
        yield kind & ~_NESTED, text[_ATTRIBUTE.size : length]
        text = text[_aligned(length) :]


def _packed(kind: int, value: bytes) -> bytes:
    packed = _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value
    return packed + b"\0" * (_aligned(len(packed)) - len(packed))


def _aligned(length: int) -> int:
    return (length + 3) & ~3


def _number(value: bytes | None) -> int:
    return int(_INDEX.unpack(value)[0]) if value else 0
