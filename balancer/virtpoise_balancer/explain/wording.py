"""Figures and reasons in plain words, the same on the page and in the terminal."""

from __future__ import annotations

from collections.abc import Container, Mapping
from types import MappingProxyType

from virtpoise_balancer.model import Detail, Move, Prediction, Reason, Refusal, Resource
from virtpoise_balancer.rules import KINDS

# Instead of a figure that is not known.
UNKNOWN = "unknown"
_REASONS: Mapping[Reason, str] = {
    Reason.ALONE: "there is no other active host to migrate to",
    Reason.PENALTY: "is in back-off after an attempt that did not solve its problem",
    Reason.NOT_WORTH: "its CPU load is too high, but what moves are expected to save is not worth what they cost",
    Reason.WAITING: "waits until what is under way has ended",
    Reason.HOST_UNKNOWN: "the host is unknown, so nothing is migrated to or from it",
    Reason.HOST_DRAINING: "the host is being drained, so it takes no domains",
    Reason.HOST_STANDBY: "the host is on standby, so it takes no domains",
    Reason.HOST_BUSY: "as many domains are on their way to the host as may be at once",
    Reason.HOST_OVERLOADED: "the host is overloaded itself, so it takes no domains",
    Reason.DESTINATION_CPU: "the host's CPU load would be too high with it",
    Reason.DESTINATION_CPUS: "the host has fewer CPUs than the domain has vCPUs",
    Reason.DESTINATION_MEMORY: "the host's memory use would be too high with it",
    Reason.DESTINATION_HUGEPAGES: "the host has too few free huge pages of the domain's size",
    Reason.DESTINATION_OVERCOMMIT: "the host would promise more memory than it may",
    Reason.DESTINATION_NETWORK: "the host's uplink would be too busy with it",
    Reason.NAME_TAKEN: "the host already has a domain of this name",
    Reason.LACKS_CPU: "libvirt reports that the host's CPU lacks what the domain's CPU needs",
    Reason.LACKS_MACHINE: "the host's hypervisor does not have the domain's kind of machine",
    Reason.LACKS_NETWORK: "the host does not have a network that the domain is on",
    Reason.LACKS_STORAGE: "the host does not have the storage that the domain is on",
    Reason.LACKS_PINS: "the host does not have the CPUs or NUMA nodes that the domain is bound to",
    Reason.HELD_DEVICE: "libvirt refuses to migrate it because of a device",
    Reason.HELD_STORAGE: "libvirt refuses to migrate it because of its storage",
    Reason.HELD_SNAPSHOTS: "libvirt refuses to migrate it while it has snapshots",
    Reason.HELD_JOB: "libvirt refuses to migrate it while it is busy with a job",
    Reason.HELD_SETTING: "libvirt refuses to migrate it because of how it is defined",
    Reason.BACKOFF: "it is in back-off there after a failed migration",
    Reason.RULE: "a placement rule forbids it",
    Reason.NOT_RUNNING: "it is paused, and only running domains are migrated",
    Reason.NOT_NEEDED: "its host needs no further move",
    Reason.MIGRATING: "it is being migrated",
    Reason.RESTING: "it was moved recently and is in its cool-down",
    Reason.NOT_CONVERGING: "its last migration did not end in time",
    Reason.LEAST_GAIN: "moving it would relieve its host too little",
    Reason.RULE_CONFLICT: "its rules contradict each other",
    Reason.RULE_BROKEN: "where it is, it breaks a hard rule",
    Reason.SOFT_RULE_BROKEN: "where it is, it breaks a soft rule",
    Reason.NO_DESTINATION: "no host can take it",
    Reason.MOVE_LIMIT: "as many domains as the policy allows are moved already",
    Reason.COSTLIER: "moving other domains costs less",
    Reason.UNSOLVED: "the plan does not relieve the host enough",
    **{kind.reason: kind.wording for kind in KINDS.values() if kind.reason is not Reason.RULE},
}
# What a refusal's numbers mean, by their keys.
_FIGURES: Mapping[str, str] = {
    "unknown": "{}",
    "seconds_left": "{} left",
    "until": "waits for {}",
    "cpu_ratio": "CPU load now {}",
    "memory_ratio": "memory in use now {}",
    "rx_ratio": "receiving now {}",
    "tx_ratio": "sending now {}",
    "source_ratio": "its host is at {}",
    **{f"source_{one}_upper_ratio": f"its host's {one.use} will be at most at {{}}" for one in Resource},
    **{f"{one}_upper_ratio": f"its {one.use} will be at most at {{}}" for one in Resource},
    "own_ratio": "{} are the host's own, which no migration takes off it",
    "recovery": "relieved at {}",
    "domain_ratio": "the domain adds {}",
    "predicted_ratio": "together {}",
    "predicted_upper_ratio": "together at most {}",
    "threshold": "threshold {}",
    "learned_ratio": "{} of it since earlier predictions were too low",
    "gain_ratio": "it would take {} off its host",
    "least_gain_ratio": "the least is {}",
    "missing_cores": "{} cores too few",
    "missing_bytes": "{} too little",
    "missing_bytes_per_second": "{} too little",
    "page_bytes": "pages of {}",
    "node": "on NUMA node {}",
    "nodes": "on NUMA nodes {}",
    "need_bytes": "the domain needs {}",
    "free_bytes": "{} free",
    "domains_left": "domains that stay: {}",
    "moves_left": "moves that were left: {}",
    "cost_bytes": "it would copy {}",
    "saved_minutes": "moves would save {} of overload",
    "added_minutes": "moves would add {} of overload, on other hosts or later",
    "cost_minutes": "they would cost {} of a host",
    "least_cost_bytes": "a domain that is moved instead copies {}",
    "destination": "to {}",
    "cpus": "the host has {} CPUs",
    "vcpus": "the domain has {} vCPUs",
    "rule": "rule {}",
    "with": "with {}",
    "there": "{} of its domains are there",
    "name": "{}",
    "needs": "{}",
    "where": "{}",
    "conflict": "{}",
    "kind": "{}",
    "hosts": "other hosts: {}",
    "failures": "failures in a row: {}",
    "why": "{}",
}
# Why a prediction has no measurement, by its verdict.
_UNMEASURED: Mapping[str | None, str] = {
    None: "not measured yet",
    "disturbed": "not measured, another migration interfered",
    "no_data": "not measured, samples are missing",
    "not_moved": "not moved",
}
_VALUES = frozenset(reason.value for reason in Reason)
_RATIOS = ("recovery", "threshold")
_KIB = 1024


def reason(which: Reason, detail: Detail = MappingProxyType({})) -> str:
    """The reason in words. ``detail``: of a rule without a reason of its own it names the kind, which has the words."""
    kind = KINDS.get(str(detail.get("kind"))) if which is Reason.RULE else None
    return kind.wording if kind else _REASONS[which]


def is_worded(key: str) -> bool:
    """Whether a number with this key in a refusal's detail has a wording of its own."""
    return _wording(key) is not None or _counted_reason(key) is not None


def unmeasured(verdict: str | None) -> str:
    """Why a prediction has no measurement; None: it is not due."""
    return _UNMEASURED.get(verdict, verdict or "")


def refusal(one: Refusal) -> str:
    """The reason with its numbers, without names: "the host's CPU load would be too high with it (threshold 80%)"."""
    numbers = figures(one)
    why = reason(one.reason, one.detail)
    return f"{why} ({numbers})" if numbers else why


def figures(one: Refusal) -> str:
    """The numbers behind a refusal; empty where there are none."""
    return details(one.detail)


def details(numbers: Detail) -> str:
    """The numbers of a refusal or of a host that was considered; those without a value are left out."""
    return ", ".join(_figure(key, value) for key, value in numbers.items() if value is not None)


def _figure(key: str, value: float | int | str) -> str:
    if (counted := _counted_reason(key)) is not None:
        return f"{value} host{'' if value == 1 else 's'}: {_REASONS[counted]}"
    return (_wording(key) or key.replace("_", " ") + " {}").format(_value(key, value))


def _wording(key: str) -> str | None:
    """What the number with this key means, or None: it has no wording of its own."""
    of_kinds = (kind.figures[key] for kind in KINDS.values() if key in kind.figures)
    return _FIGURES.get(key) or next(of_kinds, None)


def _counted_reason(key: str) -> Reason | None:
    """The reason whose refusing hosts are counted under this key, such as hosts_destination_cpu."""
    name = key.removeprefix("hosts_")
    return Reason(name) if name != key and name in _VALUES else None


def _value(key: str, value: float | int | str) -> str:
    if isinstance(value, str):
        return value
    if key.endswith("_ratio") or key in _RATIOS:
        return percent(value)
    if key.endswith("_minutes"):
        return f"{value:.1f} minutes"
    if key.endswith("_bytes"):
        return size(value)
    if key.endswith("_bytes_per_second"):
        return f"{size(value)}/s"
    if "seconds" in key:
        return duration(value)
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def headline(sentence: str, names: Container[str] = ()) -> str:
    """The sentence with a capital letter, unless one of ``names`` begins it."""
    return sentence if sentence.partition(" ")[0].rstrip(":") in names else sentence[:1].upper() + sentence[1:]


def interval(one: Prediction, resource: Resource) -> str:
    """The predicted use of the resource with its interval, if it has one: "56% (52% to 59%)"."""
    lower, upper = one.lower(resource), one.upper(resource)
    return use(one.ratio(resource)) + (f" ({percent(lower)} to {percent(upper)})" if lower != upper else "")


def percent(ratio: float | None, digits: int = 0) -> str:
    """A ratio in percent: "47%"; "-" for None."""
    return "-" if ratio is None else f"{ratio:.{digits}%}"


def busiest_direction(rx_ratio: float | None, tx_ratio: float | None) -> float | None:
    """The use of an uplink, None while that of either direction is unknown."""
    return None if rx_ratio is None or tx_ratio is None else max(rx_ratio, tx_ratio)


def use(ratio: float | None, digits: int = 0) -> str:
    """A share in use."""
    return UNKNOWN if ratio is None else percent(ratio, digits)


def rate(bytes_per_second: float | None) -> str:
    """Bytes per second in binary units."""
    return UNKNOWN if bytes_per_second is None else f"{size(bytes_per_second)}/s"


def cores(amount: float | None) -> str:
    """An amount of CPU, in cores."""
    return UNKNOWN if amount is None else f"{amount:.2f}"


def size(amount: float | None) -> str:
    """Bytes in binary units."""
    if amount is None:
        return "-"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(amount) < _KIB:
            return f"{amount:.0f} {unit}" if unit == "B" or abs(amount) >= 10 else f"{amount:.1f} {unit}"
        amount /= _KIB
    return f"{amount:.1f} TiB"


def dirtied(bytes_per_second: float | None) -> str:
    """How fast the guest writes, as an addition to a migration's progress; empty if that is 0 or not yet known."""
    return f", dirties {size(bytes_per_second)}/s" if bytes_per_second else ""


def copying(move: Move) -> str:
    """What the move is expected to cost; empty where nothing is known."""
    parts = []
    if move.cost_bytes is not None:
        takes = "" if move.seconds is None else f" in about {duration(move.seconds)}"
        disks = ", ".join(one.device for one in move.copies)
        of_disks = f", with its disks ({disks})" if disks else ""
        parts.append(f"about {size(move.cost_bytes)} to copy{of_disks}{takes}")
    if move.downtime_seconds is not None:
        parts.append(f"stopped for {duration(move.downtime_seconds)}")
    return ", ".join(parts)


def with_disks(disk_bytes: int | None) -> str:
    """How much of its disks is copied along, as an addition to a migration's progress; empty where nothing is."""
    return f", with {size(disk_bytes)} of disks" if disk_bytes else ""


def throttled(ratio: float) -> str:
    """How much CPU time the guest is kept from, as an addition to a migration's progress; empty for 0."""
    return f", throttled by {percent(ratio)}" if ratio else ""


def duration(seconds: float | None) -> str:
    """A length of time in its two largest units."""
    if seconds is None:
        return "-"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    for name, length, smaller, part in (("min", 60, "s", 1), ("h", 3600, "min", 60), ("d", 86400, "h", 3600)):
        if whole < length * (60 if name == "min" else 24) or name == "d":
            rest = whole % length // part
            return f"{whole // length} {name} {rest} {smaller}" if rest else f"{whole // length} {name}"
    raise AssertionError
