"""The kinds of placement rules, one file each: which hosts a rule allows, where it is broken, why, and in which words.

``base`` has what they share. A kind takes effect by its entry here.
"""

from collections.abc import MutableMapping
from typing import TypeVar

from virtpoise_balancer.rules.apart import APART
from virtpoise_balancer.rules.base import GroupKind, HoldKind, HostKind, Kind
from virtpoise_balancer.rules.ignore import IGNORE
from virtpoise_balancer.rules.never_on import NEVER_ON
from virtpoise_balancer.rules.only_on import ONLY_ON
from virtpoise_balancer.rules.prefer import PREFER
from virtpoise_balancer.rules.together import TOGETHER

# By the name in the configuration.
KINDS: MutableMapping[str, Kind] = {
    kind.name: kind
    for kind in (
        TOGETHER,
        APART,
        ONLY_ON,
        NEVER_ON,
        PREFER,
        IGNORE,
    )
}

_Shape = TypeVar("_Shape", bound=Kind)


def kinds(shape: type[_Shape]) -> list[_Shape]:
    """The kinds of one shape."""
    return [kind for kind in KINDS.values() if isinstance(kind, shape)]


__all__ = ["KINDS", "GroupKind", "HoldKind", "HostKind", "Kind", "kinds"]
