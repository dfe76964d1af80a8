"""The broker's own token at the store: got, kept, asked with, and what ends with it."""
