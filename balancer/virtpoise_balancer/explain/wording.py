"""Figures and reasons in plain words, the same on the page and in the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from virtpoise_balancer.model import Detail, Reason, Refusal

_REASONS: Mapping[Reason, str] = {
    Reason.ALONE: "there is no other host to move anything to",
    Reason.PENALTY: "waits after an attempt that did not solve its problem",
    Reason.WAITING: "waits until another host's problem has been worked on",
    Reason.HOST_UNKNOWN: "nothing certain is known of the host, so it takes nothing and gives nothing away",
    Reason.HOST_DRAINING: "the host is being drained, so it takes nothing",
    Reason.HOST_STANDBY: "the host is on standby, so it takes nothing",
    Reason.HOST_OVERLOADED: "the host is overloaded itself, so it takes nothing",
    Reason.DESTINATION_CPU: "the host's CPUs would be too busy with it",
    Reason.DESTINATION_CPUS: "the host has fewer CPUs than the domain has vCPUs",
    Reason.DESTINATION_MEMORY: "the host's memory would be too full with it",
    Reason.DESTINATION_NETWORK: "the host's uplink would be too full with it",
    Reason.NAME_TAKEN: "the host has a domain of this name already",
    Reason.RULE_TOGETHER: "a rule keeps it together with a domain that cannot move",
    Reason.RULE_APART: "a rule keeps it apart from a domain on the host",
    Reason.RULE_ONLY_ON: "a rule has it only on other hosts",
    Reason.RULE_NEVER_ON: "a rule has it never on the host",
    Reason.NOT_RUNNING: "it does not run, or there are no fresh figures of it",
    Reason.NOT_NEEDED: "its host needs no further move",
    Reason.MIGRATING: "it is being migrated",
    Reason.RESTING: "it was moved a short while ago and rests",
    Reason.LEAST_GAIN: "moving it would relieve its host by too little",
    Reason.RULE_IGNORE: "a rule says to leave it alone",
    Reason.RULE_CONFLICT: "its rules contradict each other",
    Reason.RULE_BROKEN: "it stands where a rule does not want it",
    Reason.NO_DESTINATION: "no host can take it",
    Reason.COSTLIER: "moving others costs less",
    Reason.UNSOLVED: "the plan does not relieve the host enough",
}
_FIGURES: Mapping[str, str] = {
    "unknown": "{}",
    "seconds_left": "{} left",
    "until": "waits for {}",
    "cpu_ratio": "CPU load now {}",
    "memory_ratio": "memory in use now {}",
    "rx_ratio": "receiving now {}",
    "tx_ratio": "sending now {}",
    "source_ratio": "its host is at {}",
    "source_upper_ratio": "its host comes to at most {}",
    "upper_ratio": "it comes to at most {}",
    "recovery": "recovered at {}",
    "domain_ratio": "the domain adds {}",
    "predicted_ratio": "together {}",
    "predicted_upper_ratio": "together at most {}",
    "threshold": "threshold {}",
    "gain_ratio": "it would take {} off its host",
    "least_gain_ratio": "the least is {}",
    "missing_cores": "{} cores too few",
    "missing_bytes": "{} too little",
    "missing_bytes_per_second": "{} too little",
    "domains_left": "domains that stay: {}",
    "destination": "to {}",
    "cpus": "the host has {} CPUs",
    "vcpus": "the domain has {} vCPUs",
    "rule": "rule {}",
    "with": "with {}",
    "name": "{}",
    "where": "{}",
    "conflict": "{}",
    "kind": "{}",
    "resource": "{}",
    "hosts": "other hosts: {}",
}
_RATIOS = ("recovery", "threshold")
_KIB = 1024


def reason(which: Reason) -> str:
    return _REASONS[which]


def refusal(one: Refusal) -> str:
    """The reason with its numbers, without the names: "the host's CPUs would be too busy with it (CPU load now 70%, ...)"."""
    numbers = figures(one)
    return f"{_REASONS[one.reason]} ({numbers})" if numbers else _REASONS[one.reason]


def figures(one: Refusal) -> str:
    """The numbers behind a refusal; empty where there are none."""
    return details(one.detail)


def details(numbers: Detail) -> str:
    return ", ".join(_figure(key, value) for key, value in numbers.items() if value is not None)


def _figure(key: str, value: float | int | str) -> str:
    if key.startswith("hosts_"):  # how many hosts refuse for this reason
        return f"{key.removeprefix('hosts_').replace('_', ' ')}: {value} host{'' if value == 1 else 's'}"
    return _FIGURES.get(key, key.replace("_", " ") + " {}").format(_value(key, value))


def _value(key: str, value: float | int | str) -> str:
    if isinstance(value, str):
        return value
    if key.endswith("_ratio") or key in _RATIOS:
        return percent(value)
    if key.endswith("_bytes"):
        return size(value)
    if key.endswith("_bytes_per_second"):
        return f"{size(value)}/s"
    if "seconds" in key:
        return duration(value)
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def headline(sentence: str, names: Iterable[str] = ()) -> str:
    """A sentence that begins with a capital, unless a name begins it."""
    return sentence if sentence.partition(" ")[0].rstrip(":") in set(names) else sentence[:1].upper() + sentence[1:]


def percent(ratio: float | None, digits: int = 0) -> str:
    return "-" if ratio is None else f"{ratio:.{digits}%}"


def size(amount: float | None) -> str:
    """Bytes in binary units, as memory is sold."""
    if amount is None:
        return "-"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(amount) < _KIB:
            return f"{amount:.0f} {unit}" if unit == "B" or abs(amount) >= 10 else f"{amount:.1f} {unit}"
        amount /= _KIB
    return f"{amount:.1f} TiB"


def dirtied(bytes_per_second: float | None) -> str:
    """What is to be said after a migration's progress; nothing where the guest writes nothing, or QEMU has not counted yet."""
    return f", dirties {size(bytes_per_second)}/s" if bytes_per_second else ""


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
