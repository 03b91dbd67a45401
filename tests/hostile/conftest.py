"""What the attack tests share with the exporter's own tests: the recorded host."""

from exporter.conftest import recorded

__all__ = ["recorded"]
