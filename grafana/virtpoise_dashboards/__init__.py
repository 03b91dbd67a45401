"""The Grafana dashboards, as code: `python -m virtpoise_dashboards` writes their JSON."""
