"""Whether the store could serve, and what of its settings would fail."""
