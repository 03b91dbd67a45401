"""What the kernel knows: pure parsers of /proc and /sys, and the reads of the domains' processes."""
