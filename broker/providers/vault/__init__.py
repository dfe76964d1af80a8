"""Read secrets from HashiCorp Vault or OpenBao."""
