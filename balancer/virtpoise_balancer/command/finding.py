"""What the doctor has found: one line each."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """How a finding is shown, and whether doctor exits with an error."""

    GOOD = "good"
    WARNING = "warning"
    BAD = "bad"
    NOT_KNOWN = "not known"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of a check: its subject, the verdict, and what to do if something is wrong."""

    subject: str
    verdict: Severity
    text: str
    remedy: str = ""
