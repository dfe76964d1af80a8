"""Which secrets engine stands behind a path, and what a read means to it."""
