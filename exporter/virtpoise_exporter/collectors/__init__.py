"""One topic a file: read (I/O), parse (pure), emit (families)."""
