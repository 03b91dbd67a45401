"""The section migration: how one live migration is made, and its bounds."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from virtpoise_balancer.config.section import EachHostOnce, HostName, Seconds, Section, inconsistent
from virtpoise_balancer.errors import LibvirtError
from virtpoise_balancer.hosts import NotAHost, address_of, check_address_pattern
from virtpoise_balancer.recurring import CRON, TIME_ZONE, bad_cron, bad_time_zone, end_of
from virtpoise_balancer.visible import shown

_Bandwidth = Annotated[int, Field(ge=1, le=1 << 30)]  # MiB/s; libvirt refuses numbers beyond that
_Throttled = Annotated[float, Field(ge=0.01, le=0.99)]


def _off(value: Any) -> Any:
    return "off" if value is False else value  # what YAML makes of `off`


def _check_cron(expression: str) -> str:
    if why := bad_cron(expression):
        raise ValueError(f"{CRON} ({why})")
    return expression


def _check_time_zone(name: str) -> str:
    if bad_time_zone(name):
        raise ValueError(TIME_ZONE)
    return name


class BandwidthWindow(Section):
    """A bandwidth limit for a time of the day.

    ``cron``: when it begins, as five fields of cron in the ``time_zone``; ``duration_seconds``: how long it lasts.
    """

    cron: Annotated[str, AfterValidator(_check_cron)]
    duration_seconds: Annotated[float, Field(ge=60, le=31 * 86400)]
    time_zone: Annotated[str, AfterValidator(_check_time_zone)] = "UTC"
    bandwidth_mib_per_second: _Bandwidth


class Migration(Section):
    timeout_seconds: Seconds = 600.0
    max_downtime_seconds: Annotated[float, Field(ge=0.001, le=2000)] = 0.3  # QEMU's own bounds
    network: Annotated[str, AfterValidator(check_address_pattern)] | None = None
    hosts: Annotated[dict[HostName, HostName], EachHostOnce] = Field(default_factory=dict)
    encryption: Annotated[Literal["required", "off"], BeforeValidator(_off)] = "off"
    parallel: Annotated[int, Field(ge=1, le=255)] = 1
    compression: Annotated[Literal["off", "xbzrle", "zstd"], BeforeValidator(_off)] = "off"
    xbzrle_cache_mib: Annotated[int, Field(ge=1, le=1 << 20)] = 64
    zstd_level: Annotated[int, Field(ge=1, le=20)] = 1
    auto_converge: bool = True
    post_copy: bool = False
    throttle_initial_ratio: _Throttled = 0.2
    throttle_increment_ratio: _Throttled = 0.1
    copy_storage: bool = False
    bandwidth_mib_per_second: _Bandwidth | None = None
    bandwidth_windows: tuple[BandwidthWindow, ...] = ()
    stop_grace_seconds: Seconds = 60.0

    def address_of(self, host: str) -> str | None:
        """The host's address on the network of migrations; None where the host itself names one.

        LibvirtError when the name does not fit.
        """
        if host in self.hosts or self.network is None:
            return self.hosts.get(host)
        try:
            return address_of(self.network, host)
        except NotAHost as error:
            raise LibvirtError(f"migration.network makes no address of {shown(host)!r}: {error}") from None

    def bandwidth_at(self, at: float) -> int | None:
        """The bandwidth limit at this moment (Unix seconds), in MiB/s; None: unlimited."""
        for one in self.bandwidth_windows:
            if end_of(one, at) is not None:
                return one.bandwidth_mib_per_second
        return self.bandwidth_mib_per_second

    @model_validator(mode="after")
    def _compatible(self) -> Migration:
        found = []
        if self.compression == "zstd" and self.parallel == 1:
            found.append("compression: expected parallel of at least 2 with zstd, which only parallel connections have")
        if self.compression == "xbzrle" and self.parallel > 1:
            found.append("compression: expected parallel of 1 with xbzrle, which parallel connections do not have")
        if self.xbzrle_cache_mib.bit_count() > 1:
            found.append(f"xbzrle_cache_mib: expected a power of two, got {self.xbzrle_cache_mib}")
        if found:
            raise inconsistent(found)
        return self
