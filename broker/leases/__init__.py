"""Credentials that a back end makes for one identity: minted once, renewed while they are used, revoked after."""
