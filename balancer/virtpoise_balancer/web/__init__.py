"""The balancer over HTTP: page, API, metrics and health checks."""
