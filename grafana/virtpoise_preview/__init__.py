"""Draws the dashboards without Grafana, from the same JSON and the same Prometheus, so that a person can look."""
