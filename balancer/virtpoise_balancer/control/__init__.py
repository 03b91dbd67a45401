"""One turn of the loop, and the orders that people give."""
