"""Traffic of the host's uplinks."""

from pathlib import Path

from virtpoise_exporter import metrics
from virtpoise_exporter.exposition import Family
from virtpoise_exporter.kernel.netdev import parse_netdev, read_links, uplinks


class NetworkCollector:
    """Counts each uplink once: bonds instead of their members, and neither bridges nor the domains' own devices."""

    name = "network"

    def __init__(self, procfs: Path, sysfs: Path) -> None:
        self._netdev = procfs / "net/dev"
        self._sysfs = sysfs

    def collect(self) -> list[Family]:
        received, sent = Family(metrics.HOST_NETWORK_RECEIVE), Family(metrics.HOST_NETWORK_TRANSMIT)
        speed = Family(metrics.HOST_NETWORK_SPEED)
        counters = parse_netdev(self._netdev.read_text())
        links = read_links(self._sysfs)
        for device in uplinks(links):
            if device not in counters:
                continue
            received.add(counters[device].received, device)
            sent.add(counters[device].sent, device)
            bytes_per_second = links[device].speed_bytes
            if bytes_per_second is not None:
                speed.add(bytes_per_second, device)
        return [received, sent, speed]
