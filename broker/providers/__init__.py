"""Where secrets come from, one file a source."""
