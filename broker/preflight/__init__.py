"""What would fail after the start, found before it: one module for each kind of thing."""
