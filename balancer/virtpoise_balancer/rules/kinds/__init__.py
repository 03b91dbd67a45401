"""One file for each kind of placement rule, with one object of it. A file that is here takes effect."""
