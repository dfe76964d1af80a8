"""What the store makes for one asker: leases and certificates, minted once and revoked."""
