-- The rights of the account that locks uses. They are checked at every connect:
--   GRANT SELECT, INSERT, UPDATE ON locks TO <account>;
--   GRANT SELECT, INSERT, UPDATE, DELETE ON lock_sessions TO <account>;
--   GRANT SELECT, INSERT, UPDATE, DELETE ON lock_fences TO <account>;
-- The rights of an account that runs fenced transactions only:
--   GRANT SELECT, UPDATE ON lock_fences TO <account>;

-- The lock table: one row per namespace.
CREATE TABLE IF NOT EXISTS locks (
    id       VARCHAR(128) NOT NULL PRIMARY KEY,
    dataJson LONGTEXT CHARACTER SET utf8mb4,
    version  BIGINT DEFAULT 1
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4;

-- A table of the original is widened: its texts are limited to 64 KiB and its
-- version to 2^31.
ALTER TABLE locks
    MODIFY dataJson LONGTEXT CHARACTER SET utf8mb4,
    MODIFY version BIGINT DEFAULT 1;

-- stamp: random, replaced at every write. metaJson: sessions, tokens, the wait queue. One
-- statement each, so that the migration can be repeated after one of them failed.
ALTER TABLE locks ADD COLUMN stamp VARCHAR(64) CHARACTER SET ascii NULL;
ALTER TABLE locks ADD COLUMN metaJson LONGTEXT CHARACTER SET utf8mb4 NULL;

-- The heartbeat of a session: beat grows while its process renews it. ttlMs NULL: it
-- never expires.
CREATE TABLE IF NOT EXISTS lock_sessions (
    id        VARCHAR(128) CHARACTER SET ascii NOT NULL PRIMARY KEY,
    namespace VARCHAR(64) CHARACTER SET ascii NOT NULL,
    taskId    VARCHAR(255) NOT NULL,
    host      VARCHAR(255) NOT NULL,
    process   VARCHAR(64) NOT NULL,
    ttlMs     BIGINT NULL,
    beat      BIGINT NOT NULL,
    seenAt    DATETIME(6) NOT NULL,
    KEY lock_sessions_namespace (namespace)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4;

-- The fence of a session: locked by fenced transactions (written on a cluster), deleted by
-- evictions.
CREATE TABLE IF NOT EXISTS lock_fences (
    session VARCHAR(128) CHARACTER SET ascii NOT NULL PRIMARY KEY,
    touched BIGINT NOT NULL
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4;
