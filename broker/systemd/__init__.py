"""The service manager of a Linux host: what the broker tells it, and the sockets that it hands over."""
