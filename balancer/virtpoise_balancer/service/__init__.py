"""The daemon: wiring, signals, logs and systemd."""
