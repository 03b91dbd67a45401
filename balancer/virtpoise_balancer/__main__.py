"""`python -m virtpoise_balancer` is the command `virtpoise`."""

import sys

from virtpoise_balancer.command.main import main

sys.exit(main())
