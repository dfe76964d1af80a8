"""The ways to log in to a store: one file of small types for each."""
