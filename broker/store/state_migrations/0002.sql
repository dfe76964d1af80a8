-- Which certificates each lease was given to, and which authorities vouched for them: names, and nothing to log in with.
CREATE TABLE holder (
  lease       TEXT NOT NULL,
  certificate TEXT NOT NULL,    -- of the chain, as revocation lists name it: serial number and issuer
  anchor      TEXT NOT NULL,    -- the key of the authority at its end
  ends_ms     INTEGER NOT NULL, -- when nobody may show it any more
  PRIMARY KEY (lease, certificate)
) STRICT, WITHOUT ROWID;
