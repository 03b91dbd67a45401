"""What may go wrong, in words for the person at the terminal."""


class PreviewError(Exception):
    """Prometheus cannot be asked, or a dashboard cannot be read; the message is one line."""
