"""TLS towards agents: the files, what they admit, who is at the other end, and names for failed handshakes."""
