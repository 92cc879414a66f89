-- What processes submit to each other while several of them wait for their turn to write. The
-- table is optional: without it, each process writes for itself. A restart of the server empties
-- it.
-- The rights of the account that locks uses:
--   GRANT SELECT, INSERT, UPDATE, DELETE ON lock_requests TO <account>;

-- One row per driver and namespace, updated in place. number rises with every submission.
-- claimed: the last submission that was claimed, and claimer: at whose turn. served: the last
-- submission that was carried out.
CREATE TABLE IF NOT EXISTS lock_requests (
    driver    VARCHAR(16) NOT NULL PRIMARY KEY,
    namespace VARCHAR(64) NOT NULL,
    number    BIGINT NOT NULL,
    claimed   BIGINT NOT NULL,
    claimer   VARCHAR(16) NOT NULL,
    served    BIGINT NOT NULL,
    seenAt    DATETIME NOT NULL,
    body      VARCHAR(1000) NOT NULL,
    KEY lock_requests_namespace (namespace) USING BTREE
) ENGINE = MEMORY DEFAULT CHARACTER SET ascii;
