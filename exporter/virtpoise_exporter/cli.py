"""The command `virtpoise-exporter`."""


def main() -> None:
    raise SystemExit("not yet")
