"""Decide who may read what."""
