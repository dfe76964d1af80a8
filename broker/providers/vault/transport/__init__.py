"""The way of a request to the address that serves, and back."""
