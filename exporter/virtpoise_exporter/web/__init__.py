"""The exporter's own HTTP(S) server: no client, however slow or silent, holds up another."""
