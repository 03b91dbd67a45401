"""``python -m virtpoise_exporter``, the same as the command ``virtpoise-exporter``."""

from virtpoise_exporter.cli import main

main()
