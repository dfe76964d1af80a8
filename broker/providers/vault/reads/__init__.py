"""Reads of secrets: what is asked, whether a refusal is believed, and what an answer becomes."""
