"""The one error the lab raises on purpose: its text is what the user reads, one line."""


class LabError(Exception):
    """Something the lab needs is missing, or something it was asked for cannot be."""
