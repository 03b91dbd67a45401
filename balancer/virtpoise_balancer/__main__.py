"""`python -m virtpoise_balancer` is the command `virtpoise`."""

from virtpoise_balancer.cli import main

main()
