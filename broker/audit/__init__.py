"""The tamper-evident trail of everything that was asked."""
