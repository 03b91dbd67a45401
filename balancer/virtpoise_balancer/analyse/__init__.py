"""What the samples mean. Pure: no clock, no random numbers, no I/O."""
