"""Who may have how much of what is scarce: requests, turns at a source, bytes in memory."""
