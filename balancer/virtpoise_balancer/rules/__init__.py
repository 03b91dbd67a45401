"""The kinds of placement rules: which hosts a rule allows, where it is broken, why, and in which words.

``base`` has what they share. A kind takes effect by its file in ``rules/kinds``.
"""

from collections.abc import MutableMapping
from importlib import import_module
from pkgutil import iter_modules
from typing import TypeVar

from virtpoise_balancer.model import Rule
from virtpoise_balancer.rules import kinds
from virtpoise_balancer.rules.base import GroupKind, HoldKind, HostKind, Kind

_Shape = TypeVar("_Shape", bound=Kind)


def _found() -> dict[str, Kind]:
    """The kinds that the files in ``kinds`` define, sorted by name."""
    files = [import_module(f"{kinds.__name__}.{one.name}") for one in iter_modules(kinds.__path__)]
    objects = [thing for file in files for thing in vars(file).values() if isinstance(thing, Kind)]
    return {kind.name: kind for kind in sorted(objects, key=lambda kind: kind.name)}


# By the name in the configuration, sorted.
KINDS: MutableMapping[str, Kind] = _found()


def kind_of(rule: Rule) -> Kind:
    """The kind of a rule; the same object for rules that ask for the same."""
    kind = KINDS[rule.kind]
    return kind.at_most(rule.most) if rule.most is not None and isinstance(kind, GroupKind) else kind


def of_shape(shape: type[_Shape]) -> list[_Shape]:
    """The kinds of one shape."""
    return [kind for kind in KINDS.values() if isinstance(kind, shape)]


__all__ = ["KINDS", "GroupKind", "HoldKind", "HostKind", "Kind", "kind_of", "of_shape"]
