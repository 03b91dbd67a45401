"""The configuration file: one typed schema, read from YAML, refused with one line that names the key and what was
expected.

One file a section; ``schema`` has the whole. virtpoise.example.yml describes each key; docs/configuration.md is
generated from it.
"""

from virtpoise_balancer.config.file import check_secrets, parse_config, read_config
from virtpoise_balancer.config.libvirt import Libvirt
from virtpoise_balancer.config.schema import Config, Measurement
from virtpoise_balancer.config.web import Web

__all__ = [
    "Config",
    "Libvirt",
    "Measurement",
    "Web",
    "check_secrets",
    "parse_config",
    "read_config",
]
