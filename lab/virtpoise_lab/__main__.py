"""``python -m virtpoise_lab``."""

import sys

from virtpoise_lab.cli import main

sys.exit(main())
