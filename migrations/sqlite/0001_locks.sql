-- The lock table: one row per namespace.
CREATE TABLE IF NOT EXISTS locks (
    id       TEXT PRIMARY KEY NOT NULL,
    dataJson TEXT,              -- {"<lock name>": "<task id>"}
    version  INTEGER DEFAULT 1, -- +1 at every write
    stamp    TEXT,              -- random, replaced at every write
    metaJson TEXT               -- sessions, tokens, the wait queue
);

-- The heartbeat of a session: beat grows while its process renews it.
CREATE TABLE IF NOT EXISTS lock_sessions (
    id        TEXT PRIMARY KEY NOT NULL,
    namespace TEXT NOT NULL,
    taskId    TEXT NOT NULL,
    host      TEXT NOT NULL, -- boot and process namespace, for comparison
    process   TEXT NOT NULL, -- process id and start time, for comparison
    ttlMs     INTEGER,       -- NULL: never expires
    beat      INTEGER NOT NULL,
    seenAt    TEXT NOT NULL  -- for people to read
);

CREATE INDEX IF NOT EXISTS lock_sessions_namespace ON lock_sessions (namespace);

-- The fence of a session: written by fenced transactions, deleted by evictions.
CREATE TABLE IF NOT EXISTS lock_fences (
    session TEXT PRIMARY KEY NOT NULL,
    touched INTEGER NOT NULL
);
