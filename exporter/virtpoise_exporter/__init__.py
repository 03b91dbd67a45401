"""Per-host Prometheus exporter: what a libvirt host and its domains use, read without ever blocking on a domain."""

__version__ = "0.1.0"  # importlib.metadata would cost 3 MB of memory to say so
