"""Documents in the store: plans, what they were made from, and looks, as compressed JSON.

Refuses what is not one, naming the field.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from virtpoise_balancer.analyse.others import Sighting, Sightings
from virtpoise_balancer.errors import BadInput
from virtpoise_balancer.formats import in_one_line, read_plan, write_plan
from virtpoise_balancer.knowledge.records import Inputs
from virtpoise_balancer.model import InconsistentSnapshot, Plan, check_consistent
from virtpoise_balancer.rules.check import rule_problems


@dataclass
class _StoredLook:
    """A look as it is stored. ``domains``: the fields of a Sighting, by uuid."""

    hosts: list[str]
    domains: dict[str, tuple[str, str, float | None, float | None]]


_INPUTS = TypeAdapter(Inputs)
_LOOK = TypeAdapter(_StoredLook)
# A document that unpacks to more than this was not written by the balancer.
_MOST_BYTES = 1 << 30


def pack_plan(plan: Plan) -> bytes:
    """The plan as a document of the store."""
    return zlib.compress(write_plan(plan).encode())


def unpack_plan(packed: Any, source: str) -> Plan:
    """The plan in a document. ``source`` names the document in a BadInput."""
    return read_plan(_unpack(packed, source), source)


def pack_inputs(inputs: Inputs) -> bytes:
    """What a plan was made from, as a document of the store."""
    return zlib.compress(_INPUTS.dump_json(inputs))


def unpack_inputs(packed: Any, source: str) -> Inputs:
    """What a plan was made from. ``source`` names the document in a BadInput."""
    try:
        inputs = _INPUTS.validate_json(_unpack(packed, source))
        check_consistent(inputs.snapshot)
        for problem in rule_problems(inputs.policy):
            raise BadInput(f"{source}: policy.{problem}")
    except ValidationError as error:
        raise BadInput(f"{source}: {in_one_line(error)}") from None
    except InconsistentSnapshot as error:
        raise BadInput(f"{source}: {error}") from None
    return inputs


def pack_text(text: str) -> bytes:
    """A text as a document of the store."""
    return zlib.compress(text.encode())


def unpack_text(packed: Any, source: str) -> str:
    """The text in a document. ``source`` names the document in a BadInput."""
    return _unpack(packed, source).decode(errors="replace")


def pack_sightings(seen: Sightings) -> bytes:
    """What a look showed, as a document of the store."""
    domains = {uuid: (one.name, one.host, one.seen, one.missing_since) for uuid, one in seen.domains.items()}
    return zlib.compress(json.dumps({"hosts": sorted(seen.hosts), "domains": domains}).encode())


def unpack_sightings(packed: Any, at: float, source: str) -> Sightings:
    """What a look showed. ``at``: when it was. ``source`` names the document in a BadInput."""
    try:
        look = _LOOK.validate_json(_unpack(packed, source))
    except ValidationError as error:
        raise BadInput(f"{source}: {in_one_line(error)}") from None
    domains = {
        uuid: Sighting(name=name, host=host, seen=seen, missing_since=missing)
        for uuid, (name, host, seen, missing) in look.domains.items()
    }
    return Sightings(at=at, hosts=frozenset(look.hosts), domains=domains)


def _unpack(packed: Any, source: str) -> bytes:
    unpacking = zlib.decompressobj()
    try:
        unpacked = unpacking.decompress(packed, _MOST_BYTES)
    except (TypeError, zlib.error) as error:
        raise BadInput(f"{source}: cannot be read: {error}") from None
    if not unpacking.eof:
        raise BadInput(f"{source}: cannot be read: cut off, or too large")
    return unpacked
