-- The lock table: one row per namespace.
CREATE TABLE IF NOT EXISTS locks (
    id       TEXT PRIMARY KEY NOT NULL,
    dataJson TEXT,              -- {"<lock name>": "<task id>"}
    version  INTEGER DEFAULT 1, -- +1 at every write
    stamp    TEXT,              -- random, new at every write
    metaJson TEXT               -- sessions, tokens, the wait queue
);

-- A session's life: renewed while its process lives.
CREATE TABLE IF NOT EXISTS lock_sessions (
    id        TEXT PRIMARY KEY NOT NULL,
    namespace TEXT NOT NULL,
    taskId    TEXT NOT NULL,
    host      TEXT NOT NULL, -- boot and process namespace, to compare
    process   TEXT NOT NULL, -- process id and start time, to compare
    ttlMs     INTEGER,       -- NULL: never expires
    beat      INTEGER NOT NULL,
    seenAt    TEXT NOT NULL  -- for people to read
);

CREATE INDEX IF NOT EXISTS lock_sessions_namespace ON lock_sessions (namespace);

-- A session's fence: touched by fenced commits, deleted by evictions.
CREATE TABLE IF NOT EXISTS lock_fences (
    session TEXT PRIMARY KEY NOT NULL,
    touched INTEGER NOT NULL
);
