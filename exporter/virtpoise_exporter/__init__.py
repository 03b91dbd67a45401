"""Per-host Prometheus exporter: what a libvirt host and its domains use, read without ever blocking on a domain."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("virtpoise")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0.0.0"
