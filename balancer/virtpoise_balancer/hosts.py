"""Who a host is: the names and addresses that may become part of a libvirt URI. The only place that makes such a URI.

A host is a DNS name or an IP address. It is checked where Prometheus' answer enters (``of_instance``) and again where a
URI is made (``uri_of``), because names also come from files, the store and the command line.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import translate
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address

_MOST_NAME = 253
# Underscores stand in names that Docker and Windows give; no label begins or ends with a dash, which ssh would take for
# an option.
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_DNS_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
# Resolvers read these as addresses: "2130706433" and "0x7f.1" are 127.0.0.1.
_NUMBER = re.compile(r"(?:.*\.)?(?:[0-9]+|0[xX][0-9a-fA-F]*)")
_ZONE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}")
_IN_BRACKETS = re.compile(r"\[([^\[\]]*)\](?::([0-9]{1,5}))?")
_WITH_PORT = re.compile(r"([^:]*):([0-9]{1,5})")

_BEFORE_HOST = r"(?P<before>[a-z][a-z0-9]*(?:\+[a-z0-9]+)?://(?:[A-Za-z0-9_][A-Za-z0-9._-]*@)?)"
# Printable ASCII, without what begins another part.
_AFTER_HOST = r"(?P<after>(?::[0-9]{1,5})?(?:/[^?#{}\x00-\x20\x7f-\U0010ffff]*)?(?:\?[^#{}\x00-\x20\x7f-\U0010ffff]*)?)"
_TEMPLATE = re.compile(rf"{_BEFORE_HOST}(?P<prefix>[A-Za-z0-9._-]*)\{{host\}}(?P<suffix>[A-Za-z0-9._-]*){_AFTER_HOST}")
_ADDRESS = re.compile(r"(?P<prefix>[A-Za-z0-9._-]*)\{host\}(?P<suffix>[A-Za-z0-9._-]*)")
_URI = re.compile(rf"{_BEFORE_HOST}(?P<host>\[[^\[\]]*\]|[^/?#:\[\]]*){_AFTER_HOST}")


class NotAHost(ValueError):
    """A text that is no name of a host; the message has what was expected."""


def checked(name: str) -> str:
    """The host's name or address, an IPv6 address in its shortest form. NotAHost for anything else.

    An IPv4 address that is written as an IPv6 one is that IPv4 address.
    """
    if not name or len(name) > _MOST_NAME:
        raise NotAHost("expected a DNS name or an IP address")
    if ":" in name:
        return _ipv6(name)
    if _NUMBER.fullmatch(name):
        try:
            return str(IPv4Address(name))
        except ValueError:
            raise NotAHost("expected a DNS name or an IP address, and this is neither: it ends in a number") from None
    if not _DNS_NAME.fullmatch(name):
        raise NotAHost("expected a DNS name or an IP address")
    return name


def _ipv6(text: str) -> str:
    address, percent, zone = text.partition("%")
    try:
        found = str(IPv6Address(address))
    except ValueError:
        raise NotAHost("expected a DNS name or an IP address") from None
    if not percent and (mapped := IPv6Address(address).ipv4_mapped):
        return str(mapped)
    if percent and not _ZONE.fullmatch(zone):
        raise NotAHost("expected the name of a network interface after the % of an IPv6 address")
    return f"{found}{percent}{zone}"


def folded(name: str) -> str:
    """What the spellings of a host's name have in common: upper and lower case are the same in DNS."""
    return name if ":" in name else name.lower()


@lru_cache(maxsize=1 << 16)
def of_instance(instance: str) -> str:
    """The host of a target: its ``instance`` without the port. NotAHost."""
    if bracketed := _IN_BRACKETS.fullmatch(instance):
        name, port = bracketed.groups()
        if ":" not in name:
            raise NotAHost("expected an IPv6 address in the brackets")
    elif instance.count(":") > 1:  # an IPv6 address without brackets has no port
        name, port = instance, None
    elif with_port := _WITH_PORT.fullmatch(instance):
        name, port = with_port.groups()
    else:
        name, port = instance, None
    if port is not None and int(port) > 65535:
        raise NotAHost("expected a port up to 65535")
    return checked(name)


def in_uri(name: str) -> str:
    """The host as it stands in a URI: an IPv6 address in brackets, its zone after ``%25`` (RFC 6874). NotAHost."""
    name = checked(name)
    return f"[{name.replace('%', '%25')}]" if ":" in name else name


def with_port(name: str, port: int) -> str:
    """The host and a port as Prometheus writes a target's address. NotAHost."""
    name = checked(name)
    return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"


def uri_of(template: str, name: str) -> str:
    """The template's URI with the host's name in place of ``{host}``: nothing but the URI's host differs. NotAHost."""
    parts = _TEMPLATE.fullmatch(template)
    if parts is None:
        raise ValueError(f"no template of a URI: {template!r}")  # the configuration does not let one in
    return f"{parts['before']}{in_uri(parts['prefix'] + checked(name) + parts['suffix'])}{parts['after']}"


def address_of(pattern: str, name: str) -> str:
    """The pattern with the host's name in place of ``{host}``, itself a DNS name or an IP address. NotAHost."""
    parts = _ADDRESS.fullmatch(pattern)
    if parts is None:
        raise ValueError(f"no pattern of an address: {pattern!r}")  # the configuration does not let one in
    return checked(parts["prefix"] + checked(name) + parts["suffix"])


def check_address_pattern(pattern: str) -> str:
    """The pattern itself. ValueError unless ``{host}`` stands in it once and it makes a name of a host."""
    try:
        address_of(pattern, "h")
    except ValueError:
        raise ValueError("a DNS name with {host} in it once, like {host}-migration.example.org") from None
    return pattern


def check_template(template: str) -> str:
    """The template itself. ValueError unless ``{host}`` stands in it once, as the URI's host or a part of it."""
    if not _TEMPLATE.fullmatch(template):
        raise ValueError(
            "a libvirt address with {host} in it once, as its host, and no password, like qemu+ssh://{host}/system"
        )
    return template


def check_uri(uri: str) -> str:
    """The URI itself. ValueError unless its host, where it has one, is a DNS name or an IP address."""
    parts = _URI.fullmatch(uri)
    if parts is None:
        raise ValueError("a libvirt address without a password or fragment, like qemu+ssh://10.0.0.1/system")
    try:
        host_in(uri)
    except NotAHost as error:
        raise ValueError(f"a libvirt address whose host is one ({error})") from None
    return uri


def host_in(uri: str) -> str | None:
    """The host in a libvirt URI; None where it has none, as in ``qemu:///system``. NotAHost."""
    parts = _URI.fullmatch(uri)
    host = parts["host"] if parts else ""
    if host.startswith("["):
        if ":" not in host:
            raise NotAHost("expected an IPv6 address in the brackets")
        return checked(host[1:-1].replace("%25", "%"))
    return checked(host) if host else None


def of_pattern(pattern: str) -> str:
    """The pattern of hosts' names. One that is an IPv6 address, with or without brackets, in its shortest form."""
    bare = pattern[1:-1] if pattern.startswith("[") and pattern.endswith("]") else pattern
    try:
        return checked(bare) if ":" in bare else pattern
    except NotAHost:
        return pattern


def matcher(patterns: Iterable[str]) -> re.Pattern[str]:
    """Fits a name that one of the shell patterns fits."""
    return re.compile("|".join(translate(pattern) for pattern in patterns) or r"(?!)")
