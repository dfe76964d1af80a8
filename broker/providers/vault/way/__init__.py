"""What lies between the broker and the store: names, a proxy, TLS, and the files that these need."""
