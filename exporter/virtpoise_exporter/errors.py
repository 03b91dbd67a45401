"""The one error that ends the exporter with a line and exit status 2."""


class UsageError(Exception):
    """Something the user gave is wrong: the message names it and says what was expected."""
