"""A small certificate authority in a directory, for development and small set-ups."""
