"""What the readings mean. Pure: no clock, no chance, no I/O."""
