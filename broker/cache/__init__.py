"""What was read, remembered: fresh, stale, within the memory that there is, and over a restart."""
