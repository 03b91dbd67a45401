"""Traffic of the host's uplinks."""

from pathlib import Path

from virtpoise_exporter import metrics
from virtpoise_exporter.exposition import Family
from virtpoise_exporter.kernel.netdev import read_netdev
from virtpoise_exporter.kernel.topology import TopologyKeeper


class NetworkCollector:
    """Counts each uplink once: bonds and teams instead of their members, no bridges, none of the domains' devices."""

    name = "network"

    def __init__(self, keeper: TopologyKeeper, procfs: Path) -> None:
        self._keeper = keeper
        self._procfs = procfs

    def collect(self, _seconds: float) -> list[Family]:
        topology = self._keeper.topology()
        if topology is None:
            raise TimeoutError("the network devices below the sys root cannot be read")
        received, sent = Family(metrics.HOST_NETWORK_RECEIVE), Family(metrics.HOST_NETWORK_TRANSMIT)
        speed = Family(metrics.HOST_NETWORK_SPEED)
        counters = read_netdev(self._procfs)
        for device in topology.uplinks:
            # a bond of Open vSwitch is no device of the kernel
            names = (device,) if device in counters else topology.devices[device].lowers
            counted = [counters[name] for name in names if name in counters]
            if len(counted) < len(names) or not counted:
                continue
            received.add(sum(one.received.bytes for one in counted), device)
            sent.add(sum(one.sent.bytes for one in counted), device)
            bytes_per_second = topology.devices[device].speed_bytes
            if bytes_per_second is not None:
                speed.add(bytes_per_second, device)
        return [received, sent, speed]
