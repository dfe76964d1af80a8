"""The tables of the broker and their dialects."""
