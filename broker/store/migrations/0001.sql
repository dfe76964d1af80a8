-- The body is the exact text that was hashed, as bytes. The columns beside it only find it quickly;
-- `broker audit verify` compares them with the body.
CREATE TABLE record (
  trail_id TEXT    NOT NULL,
  seq      INTEGER NOT NULL CHECK (seq > 0),
  time_ms  INTEGER NOT NULL,
  kind     TEXT    NOT NULL,
  outcome  TEXT    NOT NULL,
  identity TEXT    NOT NULL,
  body     BLOB    NOT NULL,
  hash     BLOB    NOT NULL CHECK (length(hash) = 32),
  -- Two writers on one head fork the chain; this turns the fork into an error.
  UNIQUE (trail_id, seq)
) STRICT;

CREATE INDEX record_by_seq ON record (seq);
CREATE INDEX record_by_time ON record (time_ms);
CREATE INDEX record_by_kind ON record (kind, outcome, seq);
CREATE INDEX record_by_failure ON record (seq) WHERE outcome = 'failure';
CREATE INDEX record_by_identity ON record (identity, seq) WHERE identity <> '';

CREATE TABLE checkpoint (
  trail_id TEXT    NOT NULL,
  size     INTEGER NOT NULL CHECK (size > 0),
  note     BLOB    NOT NULL
) STRICT;

CREATE INDEX checkpoint_by_size ON checkpoint (size);
