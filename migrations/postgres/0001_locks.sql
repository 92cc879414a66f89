-- The account that locks needs, and checks when it connects:
--   GRANT USAGE ON SCHEMA <schema> TO <account>;
--   GRANT SELECT, INSERT, UPDATE ON locks TO <account>;
--   GRANT SELECT, INSERT, UPDATE, DELETE ON lock_sessions, lock_fences TO <account>;
-- The account of transactions that are fenced, where it is another one:
--   GRANT SELECT, UPDATE ON lock_fences TO <account>;
-- Row-level security must not apply to these accounts.

-- The lock table: one row per namespace. Room for updates within the page keeps
-- its index out of every write.
CREATE TABLE IF NOT EXISTS locks (
    id       VARCHAR(128) PRIMARY KEY,
    dataJson TEXT,             -- {"<lock name>": "<task id>"}
    version  BIGINT DEFAULT 1, -- +1 at every write
    stamp    VARCHAR(64),      -- random, new at every write
    metaJson TEXT              -- sessions, tokens, the wait queue
) WITH (fillfactor = 50);

-- A session's life: renewed while its process lives.
CREATE TABLE IF NOT EXISTS lock_sessions (
    id        VARCHAR(128) PRIMARY KEY,
    namespace VARCHAR(64) NOT NULL,
    taskId    VARCHAR(255) NOT NULL,
    host      VARCHAR(255) NOT NULL, -- boot and process namespace, to compare
    process   VARCHAR(64) NOT NULL,  -- process id and start time, to compare
    ttlMs     BIGINT,                -- NULL: never expires
    beat      BIGINT NOT NULL,
    seenAt    TIMESTAMPTZ NOT NULL   -- for people to read
) WITH (fillfactor = 50);

CREATE INDEX IF NOT EXISTS lock_sessions_namespace ON lock_sessions (namespace);

-- A session's fence: locked by fenced commits, deleted by evictions.
CREATE TABLE IF NOT EXISTS lock_fences (
    session VARCHAR(128) PRIMARY KEY,
    touched BIGINT NOT NULL
) WITH (fillfactor = 50);
