"""The sockets that agents and the platform connect to: accepting, the connections, and how they end."""
