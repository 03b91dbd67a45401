"""Per-host Prometheus exporter: host load and memory, and per-domain CPU, wait and network use."""
