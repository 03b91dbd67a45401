"""The section libvirt: which targets are hosts, and how each is reached."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from virtpoise_balancer.config.section import EachHostOnce, HostName, Seconds, Section
from virtpoise_balancer.errors import LibvirtError
from virtpoise_balancer.hosts import NotAHost, check_template, check_uri, matcher, of_pattern, uri_of
from virtpoise_balancer.model import Name
from virtpoise_balancer.visible import shown

_WHICH_HOSTS = (
    "expected, for mode automatic, patterns of the hosts' names such as kvm*.example.org (or libvirt.hosts), "
    "so that no other target becomes a host"
)


def _patterns(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _shortest(patterns: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(map(of_pattern, patterns))


class Libvirt(Section):
    """How the balancer, and the hosts among themselves, reach a host."""

    uri: Annotated[str, AfterValidator(check_template)] = "qemu+ssh://{host}/system"
    host_uri: Annotated[str, AfterValidator(check_template)] | None = None
    hosts: Annotated[dict[HostName, Annotated[str, AfterValidator(check_uri)]], EachHostOnce] = Field(
        default_factory=dict
    )
    pattern: Annotated[tuple[Name, ...], BeforeValidator(_patterns), AfterValidator(_shortest)] = ()
    connect_timeout_seconds: Seconds = 10.0

    @property
    def names_hosts(self) -> bool:
        """Whether the configuration says which targets may be hosts; without, every target that Prometheus has may be
        one.
        """
        return bool(self.hosts or self.pattern)

    @property
    def only_recommends(self) -> str | None:
        """Why no move may be made without a person's approval, or None."""
        return None if self.names_hosts else f"libvirt.pattern: {_WHICH_HOSTS}"

    def admission(self) -> Callable[[str], bool]:
        """Whether a target of this name may be a host."""
        fits = matcher(self.pattern).match

        def admits(name: str) -> bool:
            if name in self.hosts:
                return True
            if self.names_hosts and fits(name) is None:
                return False
            try:  # an IPv6 address has no place in a template like kvm-{host}
                for template in filter(None, (self.uri, self.host_uri)):
                    uri_of(template, name)
            except NotAHost:
                return False
            return True

        return admits

    def uri_of(self, host: str) -> str:
        """The URI of the host's libvirt for the balancer.

        LibvirtError when the name is no host's, wherever it came from.
        """
        return self.hosts.get(host) or _uri_of(self.uri, host)

    def peer_uri_of(self, host: str) -> str:
        """The URI of the host's libvirt for the other hosts. LibvirtError as of ``uri_of``."""
        return self.uri_of(host) if self.host_uri is None else _uri_of(self.host_uri, host)


def _uri_of(template: str, host: str) -> str:
    try:
        return uri_of(template, host)
    except NotAHost as error:
        raise LibvirtError(f"{shown(host)!r} is not connected to: {error}") from None
