"""Every metric of the exporter. docs/metrics.md is generated from this table."""

from virtpoise_exporter.exposition import Kind, Metric

DOMAIN = ("domain", "uuid")
NIC = ("device", "uplink")


def _metric(collector: str, name: str, kind: Kind, help_text: str, *labels: str) -> Metric:
    return Metric(f"virtpoise_{name}", kind, collector, help_text, labels)


# Host
HOST_CPU_SECONDS = _metric(
    "cpu",
    "host_cpu_seconds_total",
    "counter",
    "Seconds all CPUs of the host together spent in each mode. The modes add up to all CPU time; "
    "the time that guests ran is in user and nice, the time that a hypervisor took from the host is in steal.",
    "mode",
)
HOST_CPUS = _metric("cpu", "host_cpus", "gauge", "CPUs online on the host.")
HOST_MEMORY_TOTAL = _metric("memory", "host_memory_total_bytes", "gauge", "Memory of the host.")
HOST_MEMORY_AVAILABLE = _metric(
    "memory",
    "host_memory_available_bytes",
    "gauge",
    "Memory that could be given to programs without swapping: free memory, what the kernel could reclaim, and the cache "
    "of ZFS above its minimum.",
)
HOST_MEMORY_FREE = _metric(
    "memory", "host_memory_free_bytes", "gauge", "Memory that nothing uses, not even as a cache."
)
HOST_MEMORY_HUGEPAGES = _metric(
    "memory",
    "host_memory_hugepages_bytes",
    "gauge",
    "Memory of the host in static huge pages of all sizes, free ones too. It is in host_memory_total_bytes and never in "
    "host_memory_available_bytes, so the rest is the host's ordinary memory.",
)
HOST_SWAP_TOTAL = _metric("memory", "host_swap_total_bytes", "gauge", "Swap space of the host; 0: it has none.")
HOST_SWAP_FREE = _metric("memory", "host_swap_free_bytes", "gauge", "Swap space of the host that holds nothing.")
HOST_NETWORK_RECEIVE = _metric(
    "network", "host_network_receive_bytes_total", "counter", "Bytes an uplink of the host received.", "device"
)
HOST_NETWORK_TRANSMIT = _metric(
    "network", "host_network_transmit_bytes_total", "counter", "Bytes an uplink of the host sent.", "device"
)
HOST_NETWORK_SPEED = _metric(
    "network",
    "host_network_speed_bytes",
    "gauge",
    "Bytes per second an uplink of the host can carry in each direction. "
    "Absent if the device has no speed and none is configured.",
    "device",
)
HOST_PRESSURE = _metric(
    "pressure",
    "host_pressure_seconds_total",
    "counter",
    "Seconds in which some (kind=some) or all (kind=full) runnable tasks waited for a resource "
    "(the kernel's pressure stall information).",
    "resource",
    "kind",
)
HOST_INFO = _metric(
    "libvirt",
    "host_info",
    "gauge",
    "1, labelled with what the host is.",
    "hostname",
    "host_uuid",
    "cpu_model",
    "arch",
    "hypervisor",
    "libvirt_version",
)

HOST_NUMA_CPUS = _metric("numa", "host_numa_cpus", "gauge", "CPUs of a NUMA node.", "node")
HOST_NUMA_MEMORY_TOTAL = _metric("numa", "host_numa_memory_total_bytes", "gauge", "Memory of a NUMA node.", "node")
HOST_NUMA_MEMORY_FREE = _metric(
    "numa",
    "host_numa_memory_free_bytes",
    "gauge",
    "Memory of a NUMA node that nothing uses, not even as a cache.",
    "node",
)
HOST_HUGEPAGES_TOTAL = _metric(
    "numa",
    "host_hugepages_total",
    "gauge",
    "Static huge pages of a NUMA node, by their size in bytes.",
    "size",
    "node",
)
HOST_HUGEPAGES_FREE = _metric(
    "numa",
    "host_hugepages_free",
    "gauge",
    "Static huge pages of a NUMA node that nothing holds, by their size in bytes.",
    "size",
    "node",
)
HOST_CPU_SPEED = _metric(
    "speed",
    "host_cpu_speed_ratio",
    "gauge",
    "How fast one CPU of the host computes, against a reference that is the same for all hosts (1 = the reference). "
    "Measured once at first start and kept, or configured; absent until then.",
)

# libvirt
LIBVIRT_UP = _metric(
    "libvirt",
    "libvirt_up",
    "gauge",
    "1 if libvirt on this host answers, 0 if it does not or has not listed its domains. It stays 1 if libvirt answers, "
    'but not about some domains: exporter_stale_domains{collector="libvirt"} counts those.',
)
DOMAINS = _metric(
    "libvirt", "domains", "gauge", "Domains that libvirt on this host knows, active or inactive.", "state"
)

# Domains
DOMAIN_INFO = _metric(
    "libvirt", "domain_info", "gauge", "1 for every domain that libvirt on this host knows, active or not.", *DOMAIN
)
DOMAIN_PLACEMENT = _metric(
    "libvirt",
    "domain_placement",
    "gauge",
    "1 for each placement rule in the domain's own metadata, with the group or the hosts that it names.",
    *DOMAIN,
    "rule",
    "value",
)
DOMAIN_RUNNING = _metric(
    "libvirt",
    "domain_running",
    "gauge",
    "1 where the domain runs; 0 where it is shut off, paused, or arriving or leaving by a migration. "
    "Over all hosts at most one is 1.",
    *DOMAIN,
)
DOMAIN_STATE = _metric(
    "libvirt",
    "domain_state",
    "gauge",
    "1 for the state the domain is in, in libvirt's words, and libvirt's reason for it; its other states are absent.",
    *DOMAIN,
    "state",
    "reason",
)
DOMAIN_CPU_SECONDS = _metric(
    "domains",
    "domain_cpu_seconds_total",
    "counter",
    "CPU time of the domain's whole process: vCPUs, emulator and I/O threads, and vhost threads where they belong to it "
    "(see exporter.md). Restarts with the process, so also on the host a domain migrates to.",
    *DOMAIN,
)
DOMAIN_VCPU_SECONDS = _metric(
    "domains",
    "domain_vcpu_seconds_total",
    "counter",
    "Seconds the domain's vCPUs ran on a CPU of the host, without what QEMU did for them. Restarts with the process.",
    *DOMAIN,
)
DOMAIN_CPU_DELAY = _metric(
    "domains",
    "domain_cpu_delay_seconds_total",
    "counter",
    "Seconds the domain's vCPUs were ready to run and waited for a CPU of the host; the guest sees them as steal. "
    "Restarts with the process.",
    *DOMAIN,
)
DOMAIN_VCPUS = _metric("libvirt", "domain_vcpus", "gauge", "vCPUs the domain has now.", *DOMAIN)
DOMAIN_MEMORY = _metric(
    "libvirt", "domain_memory_bytes", "gauge", "Memory assigned to the domain now (its balloon's size).", *DOMAIN
)
DOMAIN_MEMORY_MAXIMUM = _metric(
    "libvirt",
    "domain_memory_maximum_bytes",
    "gauge",
    "Memory that the domain can be given at most while it runs: the size up to which its balloon can go.",
    *DOMAIN,
)
DOMAIN_MEMORY_RESIDENT = _metric(
    "domains", "domain_memory_resident_bytes", "gauge", "Memory of the host that the domain's process holds.", *DOMAIN
)


def _nic(name: str, help_text: str) -> Metric:
    text = f"{help_text}; uplink is the host's interface behind it, empty if the traffic stays on the host."
    return _metric("domains", f"domain_network_{name}_total", "counter", text, *DOMAIN, *NIC)


DOMAIN_NETWORK_RECEIVE = _nic("receive_bytes", "Bytes the domain received on a network device")
DOMAIN_NETWORK_TRANSMIT = _nic("transmit_bytes", "Bytes the domain sent on a network device")
DOMAIN_NETWORK_RECEIVE_PACKETS = _nic("receive_packets", "Packets the domain received on a network device")
DOMAIN_NETWORK_TRANSMIT_PACKETS = _nic("transmit_packets", "Packets the domain sent on a network device")
DOMAIN_NETWORK_RECEIVE_ERRORS = _nic("receive_errors", "Errors in what the domain received on a network device")
DOMAIN_NETWORK_TRANSMIT_ERRORS = _nic("transmit_errors", "Errors in what the domain sent on a network device")
DOMAIN_NETWORK_RECEIVE_DROPS = _nic("receive_drops", "Packets for the domain that a network device dropped")
DOMAIN_NETWORK_TRANSMIT_DROPS = _nic("transmit_drops", "Packets of the domain that a network device dropped")
DOMAIN_HUGEPAGES = _metric(
    "libvirt",
    "domain_hugepages_bytes",
    "gauge",
    "Memory of the domain that lies in the host's static huge pages of a size (in bytes), and so not in its ordinary "
    'memory; absent for a domain that has none. The size is "unknown" while /proc/meminfo does not give it.',
    *DOMAIN,
    "size",
)
DOMAIN_NETWORK_UNSEEN = _metric(
    "domains",
    "domain_network_unseen",
    "gauge",
    "1 for each network device of the domain whose traffic the host's kernel does not carry, so that no figure of it "
    "is here: handed through from hardware (hostdev, vdpa), or served by a program (vhostuser, passt, user). device is "
    "its name on the host or its MAC address.",
    *DOMAIN,
    "device",
    "kind",
)
DOMAIN_BLOCK_READ = _metric(
    "block", "domain_block_read_bytes_total", "counter", "Bytes the domain read from a disk.", *DOMAIN, "device"
)
DOMAIN_BLOCK_WRITTEN = _metric(
    "block", "domain_block_written_bytes_total", "counter", "Bytes the domain wrote to a disk.", *DOMAIN, "device"
)


def _disk(name: str, help_text: str) -> Metric:
    return _metric("block", f"domain_block_{name}_total", "counter", help_text, *DOMAIN, "device")


DOMAIN_BLOCK_READ_REQUESTS = _disk("read_requests", "Reads of a disk by the domain.")
DOMAIN_BLOCK_WRITE_REQUESTS = _disk("write_requests", "Writes to a disk by the domain.")
DOMAIN_BLOCK_FLUSH_REQUESTS = _disk("flush_requests", "Flushes of a disk's cache by the domain.")
DOMAIN_BLOCK_READ_SECONDS = _disk("read_seconds", "Seconds that the reads of a disk took, all added up.")
DOMAIN_BLOCK_WRITE_SECONDS = _disk("write_seconds", "Seconds that the writes to a disk took, all added up.")
DOMAIN_BLOCK_FLUSH_SECONDS = _disk("flush_seconds", "Seconds that the flushes of a disk's cache took, all added up.")

DOMAIN_STALE = _metric(
    "",
    "domain_stale_seconds",
    "gauge",
    "Age of the last complete figures of a domain that a collector had to leave out of this scrape, wholly or in part, "
    "because they are not fresh; absent for a domain whose figures are all here.",
    *DOMAIN,
    "collector",
)

DOMAIN_FACTS_AGE = _metric(
    "libvirt",
    "domain_facts_age_seconds",
    "gauge",
    "Age of the facts in the domain's XML (its vCPUs, memory, devices and placement rules) where libvirt does not give "
    "the XML now, or gives one that cannot be read; absent for a domain whose facts are current.",
    *DOMAIN,
)

DOMAIN_BLOCK_CAPACITY = _metric(
    "block", "domain_block_capacity_bytes", "gauge", "Size of a disk as the domain sees it.", *DOMAIN, "device"
)


def _guest(name: str, kind: Kind, help_text: str) -> Metric:
    text = (
        f"{help_text}, as its balloon driver reports. "
        "Only for domains whose XML asks for it: <memballoon><stats period='10'/>."
    )
    return _metric("balloon", f"domain_memory_{name}", kind, text, *DOMAIN)


DOMAIN_MEMORY_USABLE = _guest("usable_bytes", "gauge", "Memory that the guest could give up without swapping")
DOMAIN_MEMORY_UNUSED = _guest("unused_bytes", "gauge", "Memory that the guest uses for nothing, not even as a cache")
DOMAIN_MEMORY_AVAILABLE = _guest("available_bytes", "gauge", "All memory that the guest's kernel sees")
DOMAIN_MEMORY_CACHES = _guest("disk_caches_bytes", "gauge", "Memory of the guest that caches its disks")
DOMAIN_MEMORY_SWAP_IN = _guest("swap_in_bytes_total", "counter", "Bytes that the guest read back from its swap")
DOMAIN_MEMORY_SWAP_OUT = _guest("swap_out_bytes_total", "counter", "Bytes that the guest wrote to its swap")
DOMAIN_MEMORY_MAJOR_FAULTS = _guest(
    "major_faults_total", "counter", "Page faults of the guest that had to read from a disk"
)
DOMAIN_MEMORY_MINOR_FAULTS = _guest("minor_faults_total", "counter", "Page faults of the guest that read from no disk")

# The exporter itself
SOURCE_INFO = _metric(
    "domains",
    "exporter_source_info",
    "gauge",
    "1, labelled with where the domains' figures come from (kernel or libvirt) and why.",
    "source",
    "reason",
)
STALE_DOMAINS = _metric(
    "",
    "exporter_stale_domains",
    "gauge",
    "Active domains that a collector had to leave out of this scrape, wholly or in part, "
    "because their figures are not fresh.",
    "collector",
)
DATA_AGE = _metric(
    "",
    "exporter_collector_data_age_seconds",
    "gauge",
    "Age of figures that a collector reads in the background: libvirt's list of domains, the disks' counters.",
    "collector",
)
COLLECTOR_SUCCESS = _metric(
    "",
    "exporter_collector_success",
    "gauge",
    "1 if the collector answered within the scrape's deadline and could read all that it reads, 0 if not.",
    "collector",
)
COLLECTOR_DURATION = _metric(
    "", "exporter_collector_duration_seconds", "gauge", "How long the collector took for this scrape.", "collector"
)
BUILD_INFO = _metric("", "exporter_build_info", "gauge", "1, labelled with the exporter's version.", "version")

ALL = tuple(value for value in globals().values() if isinstance(value, Metric))
