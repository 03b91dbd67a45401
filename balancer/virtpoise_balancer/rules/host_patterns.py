"""How rules and reserves name hosts: by name, or by a label of the target as in ``rack=r1*``.

No name of a host has an equals sign.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from virtpoise_balancer.rules.glob import glob


def host_pattern(pattern: str) -> Callable[[str, Mapping[str, str]], bool]:
    """Whether a host of a name and with labels fits. One without the label fits nothing, not even ``rack=*``."""
    label, is_label, value = pattern.partition("=")
    if is_label:
        of_label = glob(value)
        return lambda _name, labels: bool(labels.get(label)) and of_label(labels[label])
    of_name = glob(pattern)
    return lambda name, _labels: of_name(name)
