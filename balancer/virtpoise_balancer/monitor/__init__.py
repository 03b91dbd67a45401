"""Asks Prometheus how the group is. The only place that knows PromQL."""
