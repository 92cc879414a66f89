-- What processes submit to each other while several of them wait for their turn to write. The
-- table is optional: without it, each process writes for itself. A crash of the server may empty
-- it.
-- The rights of the account that locks uses:
--   GRANT SELECT, INSERT, UPDATE, DELETE ON lock_requests TO <account>;

-- One row per driver and namespace, updated in place.
CREATE UNLOGGED TABLE IF NOT EXISTS lock_requests (
    driver    VARCHAR(16) PRIMARY KEY,
    namespace VARCHAR(64) NOT NULL,
    number    BIGINT NOT NULL,        -- rises with every submission
    claimed   BIGINT NOT NULL,        -- the last submission that was claimed at a turn
    served    BIGINT NOT NULL,        -- the last submission that was carried out
    seenAt    TIMESTAMPTZ NOT NULL,
    body      VARCHAR(1000) NOT NULL
) WITH (fillfactor = 30);

CREATE INDEX IF NOT EXISTS lock_requests_namespace ON lock_requests (namespace);
