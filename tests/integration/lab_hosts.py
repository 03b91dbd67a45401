"""The lab's hosts as the balancer asks them."""

from virtpoise_balancer.execute.libvirt_hosts import LibvirtHosts
from virtpoise_balancer.execute.transfer import Transfer
from virtpoise_balancer.execute.workers import Workers
from virtpoise_lab.lab import Lab


def hosts_of(lab: Lab, workers: Workers, *, copies: bool = False) -> LibvirtHosts:
    """The hosts by their names. ``copies``: whether disks may be copied."""
    uris = {host.name: host.uri for host in lab.hosts}
    return LibvirtHosts(
        uri_of=uris.__getitem__,
        peer_uri_of=uris.__getitem__,
        address_of=lambda _host: None,
        transfer=Transfer(),
        connect_timeout_seconds=10,
        copies=copies,
        workers=workers,
    )
