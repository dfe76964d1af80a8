"""What changes at the sources that agents watch."""
