BEGIN TRANSACTION;
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
INSERT INTO "lease" VALUES('lease_minting','vault','vault:database/creds/app','spiffe','spiffe://prod.example/shipper','minting','','','parent-1',0,1800000000000,1800003600000,NULL);
INSERT INTO "lease" VALUES('lease_live','vault','vault:database/creds/app','spiffe','spiffe://prod.example/shipper','live','','handle-4711','parent-2',1,1800000000000,1800003600000,NULL);
INSERT INTO "lease" VALUES('lease_superseded','vault','vault:database/creds/app','spiffe','spiffe://prod.example/shipper','superseded','replaced','handle-4711','',1,1800000000000,1800003600000,1800000300000);
INSERT INTO "lease" VALUES('lease_größe','vault','vault:database/creds/app','spiffe','spiffe://prod.example/shipper','revoking','policy','handle-4711','',1,1800000000000,1800003600000,1800000001500);
COMMIT;
PRAGMA user_version = 1;
