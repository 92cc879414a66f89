-- The rights of the account that locks uses. They are checked at every connect:
--   GRANT USAGE ON SCHEMA <schema> TO <account>;
--   GRANT SELECT, INSERT, UPDATE ON locks TO <account>;
--   GRANT SELECT, INSERT, UPDATE, DELETE ON lock_sessions, lock_fences TO <account>;
-- The rights of an account that runs fenced transactions only:
--   GRANT SELECT, UPDATE ON lock_fences TO <account>;
-- Row-level security must not apply to these accounts.

-- The lock table: one row per namespace. Free space in each page allows updates that
-- do not change the index.
CREATE TABLE IF NOT EXISTS locks (
    id       VARCHAR(128) PRIMARY KEY,
    dataJson TEXT,             -- {"<lock name>": "<task id>"}
    version  BIGINT DEFAULT 1, -- +1 at every write
    stamp    VARCHAR(64),      -- random, replaced at every write
    metaJson TEXT              -- sessions, tokens, the wait queue
) WITH (fillfactor = 50);

-- The heartbeat of a session: beat grows while its process renews it.
CREATE TABLE IF NOT EXISTS lock_sessions (
    id        VARCHAR(128) PRIMARY KEY,
    namespace VARCHAR(64) NOT NULL,
    taskId    VARCHAR(255) NOT NULL,
    host      VARCHAR(255) NOT NULL, -- boot and process namespace, for comparison
    process   VARCHAR(64) NOT NULL,  -- process id and start time, for comparison
    ttlMs     BIGINT,                -- NULL: never expires
    beat      BIGINT NOT NULL,
    seenAt    TIMESTAMPTZ NOT NULL   -- for people to read
) WITH (fillfactor = 50);

CREATE INDEX IF NOT EXISTS lock_sessions_namespace ON lock_sessions (namespace);

-- The fence of a session: locked by fenced transactions, deleted by evictions.
CREATE TABLE IF NOT EXISTS lock_fences (
    session VARCHAR(128) PRIMARY KEY,
    touched BIGINT NOT NULL
) WITH (fillfactor = 50);
