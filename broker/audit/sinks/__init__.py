"""Where copies of the trail are delivered."""
