"""What the doctor has found: one line each."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    GOOD = "good"
    WARNING = "warning"
    BAD = "bad"
    NOT_KNOWN = "not known"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line: what was looked at, how it is, and, where something is wrong, what to do."""

    subject: str
    verdict: Severity
    text: str
    remedy: str = ""
