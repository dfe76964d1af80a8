-- What the broker must know of leases to leave none behind. There is no column that could hold a value.
CREATE TABLE lease (
  id            TEXT PRIMARY KEY,  -- ours, opaque; the only name that leaves the broker
  provider      TEXT NOT NULL,     -- the scheme of the reference
  source        TEXT NOT NULL,     -- the canonical reference without its field
  identity_kind TEXT NOT NULL,
  identity      TEXT NOT NULL,
  state         TEXT NOT NULL CHECK (state IN ('minting', 'live', 'superseded', 'revoking')),
  reason        TEXT NOT NULL,     -- why it is superseded or being revoked, a slug
  handle        TEXT NOT NULL,     -- the store's own name of the lease; empty before it is known
  parent        TEXT NOT NULL,     -- the accessor of the token that the lease hangs on; empty when it is the broker's
  renewable     INTEGER NOT NULL,
  created_ms    INTEGER NOT NULL,
  expires_ms    INTEGER NOT NULL,  -- as last told to the identity
  due_ms        INTEGER            -- when it is to be revoked; NULL: when it ends by itself
) STRICT;
