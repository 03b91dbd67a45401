"""The limit of whoever waits for a server, as a value that can be changed while someone waits."""

from dataclasses import dataclass


@dataclass(slots=True)
class Patience:
    """For how long an answer is waited for. A change counts at once, also for who waits already."""

    seconds: float
