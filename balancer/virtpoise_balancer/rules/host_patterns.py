"""How rules and reserves name hosts: by name, or by a label of the target as in ``rack=r1*``.

No name of a host has an equals sign.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from fnmatch import translate
from functools import cache


@cache
def host_pattern(pattern: str) -> Callable[[str, Mapping[str, str]], bool]:
    """Whether a host of a name and with labels fits. A label that it does not have counts as empty."""
    label, is_label, value = pattern.partition("=")
    if is_label:
        fits = re.compile(translate(value)).match
        return lambda _name, labels: fits(labels.get(label, "")) is not None
    named = re.compile(translate(pattern)).match
    return lambda name, _labels: named(name) is not None
