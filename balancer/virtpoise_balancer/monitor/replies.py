"""Reads the JSON of Prometheus' replies: of an instant query a vector, of a range query a matrix.

Nothing in a reply is trusted. It is first read in the form that it should have. Only where one series departs from that
is each read by itself, which takes several times as long.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Annotated, Any, Literal

import msgspec

# Of one reply. Ten thousand hosts with a hundred thousand domains need half of this.
MOST_SERIES = 150_000
MOST_SAMPLES = 4_000_000
# Of one label's value: libvirt's names and uuids are far shorter.
MOST_LABEL = 1024
# The character that no name has, and that PostgreSQL cannot keep. Prometheus takes it in a label's value. In JSON it is
# always written like this.
_NUL, _NUL_IN_JSON = "\0", b"\\u0000"

# [Unix seconds, value as text], as https://prometheus.io/docs/prometheus/latest/querying/api/ defines it.
_Sample = tuple[float, float]
_Label = Annotated[str, msgspec.Meta(max_length=MOST_LABEL)]


# How Prometheus' own notes about a query begin, whose answer is whole. Any other warning is of a store that did not
# answer, or not with everything: Thanos and remote read answer with the rest.
_ABOUT_THE_QUERY = "PromQL "


class BadReply(ValueError):
    """The reply is not valid JSON of Prometheus, or answers another query; the message has what was expected."""


class Series(msgspec.Struct, frozen=True, gc=False):
    """One series of an answer: its labels and its samples, oldest first (one for an instant query).

    Values are finite.
    """

    labels: Mapping[str, str]
    samples: tuple[_Sample, ...]

    @property
    def value(self) -> float:
        return self.samples[-1][1]


class Read(msgspec.Struct, gc=False):
    """What a reply holds. ``error``: why Prometheus refused the query; None when it did not. ``missing``: what it says
    of something that is missing in the answer; None when nothing is.
    """

    series: tuple[Series, ...] = ()
    warnings: Sequence[str] = ()
    error: str | None = None
    missing: str | None = None


# A native histogram has no value. An exporter chooses what it exposes, so such a series is only left out.
class _Instant(msgspec.Struct, gc=False):
    metric: dict[_Label, _Label]
    value: _Sample | None = None


class _Range(msgspec.Struct, gc=False):
    metric: dict[_Label, _Label]
    values: tuple[_Sample, ...] = ()


class _Vector(msgspec.Struct):
    resultType: str  # noqa: N815 - Prometheus' own name
    result: list[_Instant]


class _Matrix(msgspec.Struct):
    resultType: str  # noqa: N815
    result: list[_Range]


# Each series whatever its labels and values are.
class _Loose(msgspec.Struct):
    metric: dict[str, str]
    value: tuple[float, str] | None = None
    values: list[tuple[float, str]] = []


class _AnyResult(msgspec.Struct):
    resultType: str  # noqa: N815
    result: list[_Loose]


class _Head(msgspec.Struct):
    resultType: str = ""  # noqa: N815


class _Envelope(msgspec.Struct):
    status: Literal["success", "error"]
    error: str = ""
    warnings: list[str] = []
    isPartial: bool = False  # noqa: N815 - of a cluster of VictoriaMetrics


class _VectorReply(_Envelope):
    data: _Vector = msgspec.field(default_factory=lambda: _Vector("", []))


class _MatrixReply(_Envelope):
    data: _Matrix = msgspec.field(default_factory=lambda: _Matrix("", []))


class _AnyReply(_Envelope):
    data: _AnyResult = msgspec.field(default_factory=lambda: _AnyResult("", []))


class _HeadReply(_Envelope):
    data: _Head | None = None


# Not strict: a value is a number in a text.
_VECTOR = msgspec.json.Decoder(_VectorReply, strict=False)
_MATRIX = msgspec.json.Decoder(_MatrixReply, strict=False)
_ANY = msgspec.json.Decoder(_AnyReply)
_HEAD = msgspec.json.Decoder(_HeadReply)


def read_vector(content: bytes) -> Read:
    """The reply to an instant query. A rate over too little is NaN, and that is no figure, so it is left out.
    BadReply.
    """
    try:
        if _NUL_IN_JSON in content:
            return _one_by_one(content, "vector")
        reply = _VECTOR.decode(content)
    except (msgspec.MsgspecError, RecursionError) as error:
        return _one_by_one(content, "vector", error)
    if no_answer := _no_answer(reply, reply.data, "vector"):
        return no_answer
    found = [
        Series(one.metric, (value,))
        for one in reply.data.result
        if (value := one.value) is not None and isfinite(value[1])
    ]
    return Read(tuple(found), reply.warnings)


def read_matrix(content: bytes) -> Read:
    """The reply to a range query, likewise. BadReply."""
    try:
        if _NUL_IN_JSON in content:
            return _one_by_one(content, "matrix")
        reply = _MATRIX.decode(content)
    except (msgspec.MsgspecError, RecursionError) as error:
        return _one_by_one(content, "matrix", error)
    if no_answer := _no_answer(reply, reply.data, "matrix"):
        return no_answer
    if sum(len(one.values) for one in reply.data.result) > MOST_SAMPLES:
        raise BadReply(f"expected at most {MOST_SAMPLES} samples")
    found = []
    for one in reply.data.result:
        values = [sample for sample in one.values if isfinite(sample[1])]
        if values:
            found.append(Series(one.metric, tuple(values)))
    return Read(tuple(found), reply.warnings)


def _no_answer(reply: _Envelope, data: _Vector | _Matrix | _AnyResult, kind: str) -> Read | None:
    """Why the reply is no answer, or None where it is one. BadReply."""
    if reply.status == "error":
        return Read(error=reply.error or "it does not say why")
    if data.resultType != kind:
        raise BadReply(f"expected a {kind}")
    if len(data.result) > MOST_SERIES:
        raise BadReply(f"expected at most {MOST_SERIES} series")
    partial = (one for one in reply.warnings if not one.startswith(_ABOUT_THE_QUERY))
    missing = next(partial, "isPartial" if reply.isPartial else None)
    return None if missing is None else Read(missing=missing)


def _one_by_one(content: bytes, kind: str, first: Exception | None = None) -> Read:
    """The reply, each of its series read by itself. One with a label that is absurdly long, or that has a NUL, is left
    out, with a warning. ``first``: why the reply has not the form that it should have.
    """
    try:
        reply = _ANY.decode(content)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise BadReply(_why(content, kind, error, first)) from None
    if no_answer := _no_answer(reply, reply.data, kind):
        return no_answer
    found, long, nul = [], 0, 0
    for one in reply.data.result:
        texts = (*one.metric, *one.metric.values())
        if max(map(len, texts), default=0) > MOST_LABEL:
            long += 1
            continue
        if any(_NUL in text for text in texts):
            nul += 1
            continue
        values = [one.value] if one.value is not None else one.values
        samples = tuple([(at, number) for at, text in values if isfinite(number := _number(text))])
        if samples:
            found.append(Series(one.metric, samples))
    warnings = reply.warnings
    if long:
        warnings = [*warnings, f"{long} series have a label of more than {MOST_LABEL} characters and are left out"]
    if nul:
        warnings = [*warnings, f"{nul} series have a label with a NUL and are left out"]
    return Read(tuple(found), warnings)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise BadReply(f"expected a number, got {text[:40]!r}") from None


def _why(content: bytes, kind: str, error: Exception, first: Exception | None) -> str:
    """What is wrong with a reply that has no form at all."""
    if isinstance(error, RecursionError):
        return "expected JSON, and less deeply nested"
    if not isinstance(error, msgspec.ValidationError):
        return f"expected JSON: {error}"
    first = first or error
    try:
        data: Any = _HEAD.decode(content).data
    except (msgspec.MsgspecError, RecursionError):
        return str(first)
    return str(first) if data is None or data.resultType == kind else f"expected a {kind}"
