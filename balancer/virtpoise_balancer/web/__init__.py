"""What the balancer tells of itself over HTTP: metrics, health, status."""
