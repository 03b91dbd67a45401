"""The terminal: the command `virtpoise`, its tables, and its conversation with a running balancer."""
