"""`python -m virtpoise_balancer` is the command `virtpoise`."""

import sys

from virtpoise_balancer.cli import main

sys.exit(main())
