"""Resolve references to secrets for agents, by policy, audited before a value leaves."""
