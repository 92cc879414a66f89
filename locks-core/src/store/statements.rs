//! The SQL text of one engine, with the names of the tables.

use std::sync::Arc;

use super::{file::FileIdentity, names::TableNames, turn::TurnStatements};
use crate::{
    error::{LockError, Result},
    options::Durability,
};

/// The statements of one engine. Placeholders are in the order of the arguments.
///
/// The comments list the arguments, and the columns of the result after an arrow.
#[derive(Debug)]
pub(super) struct Statements {
    /// The placeholder of the argument with this number. The first number is 1.
    pub(super) placeholder: fn(usize) -> String,

    /// id → dataJson, version, stamp, metaJson
    pub(super) read: String,
    /// The row lock, if the server grants it in order of arrival and ends a transaction that
    /// holds it and is idle.
    pub(super) row_lock: Option<RowLock>,
    /// The statements of turns, if the server has session-level locks and connections are not
    /// shared.
    pub(super) turns: Option<TurnStatements>,
    /// Whether a commit is on the disk before another connection sees it.
    pub(super) shows_durable: bool,
    /// id → version, stamp
    pub(super) read_version: String,
    /// A list of ids follows → id, version, stamp, number of rows
    pub(super) read_versions: String,
    /// dataJson, metaJson, new stamp, new version, id, version, stamp
    pub(super) compare_and_set: String,
    /// A condition of `compare_and_set` on a list of sessions. The number of those that must
    /// have a heartbeat row follows.
    pub(super) alive: Condition,
    /// A condition of `compare_and_set` on a list of sessions. The number of those that must
    /// have a fence row follows.
    pub(super) dead: Condition,
    /// new version, stamp, id, version. It applies to a row without a stamp only.
    pub(super) adopt: String,
    /// id, version, stamp
    pub(super) create: String,

    /// Rows follow, each with id, namespace, task, host, process, ttl.
    pub(super) insert_sessions: String,
    /// The end of each row of `insert_sessions`.
    pub(super) insert_sessions_end: String,
    /// Rows follow, each with session, 0.
    pub(super) insert_fences: String,
    /// A list of ids follows.
    pub(super) renew: String,
    /// A list of ids follows → for each fence row: session, id, taskId, host, process, ttlMs,
    /// beat, number of rows. All but the first and the last are NULL if there is no
    /// heartbeat row.
    pub(super) liveness: String,
    /// namespace → id, taskId, host, process, ttlMs, beat, number of rows
    pub(super) sessions_in: String,
    /// start and end of a range of sessions → session, number of rows
    pub(super) fences_in: String,
    /// id
    pub(super) delete_session: String,
    /// id, beat
    pub(super) delete_session_at: String,
    /// A list of ids follows.
    pub(super) delete_sessions: String,
    /// start and end of a range of fence rows. It fails at once if a transaction has locked
    /// one of them. `None`: the engine has no such statement.
    pub(super) try_fences: Option<String>,
    /// start and end of a range of fence rows
    pub(super) delete_fences: String,
    /// A list of fence rows and `FOR UPDATE NOWAIT` follow.
    pub(super) try_fence_list: Option<String>,
    /// A list of fence rows follows.
    pub(super) delete_fence_list: String,
    /// A condition of `delete_fences`: session, other session, number. The session must have
    /// no heartbeat row, and the other session must have this number of them.
    pub(super) without_heartbeat: String,
    /// A condition of `delete_session`: namespace. It must have no locks row.
    pub(super) without_row: String,
    /// A condition of `delete_session`: namespace, version. The locks row must have this
    /// version and no stamp.
    pub(super) with_unstamped_row: String,
    /// fence row. The statements fail while an open transaction is fenced with the row.
    /// Empty: every write of the engine waits for such a transaction.
    pub(super) await_fence: Vec<String>,

    /// payload. `None`: the engine has no notifications.
    pub(super) notify: Option<String>,
    /// Sets what the next writes of the connection survive. `None`: the server decides.
    pub(super) synchronous: Option<fn(Durability) -> &'static str>,
    /// → a number that changes when another connection writes. `None`: the engine has none
    /// that is nearly free to read.
    pub(super) data_version: Option<&'static str>,
}

/// The parts in which the statements of the engines differ.
#[derive(Clone, Copy, Debug)]
pub(super) struct Syntax {
    pub(super) placeholder: fn(usize) -> String,
    pub(super) count: &'static str,
    /// The function that returns the greatest of its arguments.
    pub(super) greatest: &'static str,
    /// The server's time, in microseconds since 1970.
    pub(super) micros: &'static str,
    /// The server's time, as `seenAt` stores it.
    pub(super) seen_at: &'static str,
}

impl Syntax {
    /// Replaces each `?` by its placeholder. The first one has the number `first`.
    fn with_placeholders(&self, first: usize, text: &str) -> String {
        let mut pieces = text.split('?');
        let start = pieces.next().unwrap_or_default().to_owned();
        pieces.zip(first..).fold(start, |text, (piece, number)| {
            text + &(self.placeholder)(number) + piece
        })
    }
}

impl Statements {
    /// The statements of an engine without a row lock, in which every write waits for open
    /// transactions that have written. Other engines replace what differs.
    pub(super) fn new(names: &TableNames, syntax: &Syntax) -> Self {
        let [locks, sessions, fences] = names.quoted();
        let Syntax {
            placeholder,
            count,
            greatest,
            micros,
            seen_at,
        } = syntax;
        let rows = format!("{count} OVER ()");
        let sql = |text: String| syntax.with_placeholders(1, &text);
        Self {
            placeholder: *placeholder,
            read: sql(format!(
                "SELECT dataJson, version, stamp, metaJson FROM {locks} WHERE id = ?"
            )),
            row_lock: None,
            shows_durable: false,
            turns: None,
            read_version: sql(format!("SELECT version, stamp FROM {locks} WHERE id = ?")),
            read_versions: format!("SELECT id, version, stamp, {rows} FROM {locks} WHERE id IN"),
            compare_and_set: sql(format!(
                "UPDATE {locks} SET dataJson = ?, metaJson = ?, stamp = ?, version = ? \
                 WHERE id = ? AND version = ? AND stamp = ?"
            )),
            alive: Condition {
                before: format!(" AND (SELECT {count} FROM {sessions} WHERE id IN "),
                after: ") = ",
            },
            dead: Condition {
                before: format!(" AND (SELECT {count} FROM {fences} WHERE session IN "),
                after: ") = ",
            },
            adopt: sql(format!(
                "UPDATE {locks} SET version = {greatest}(?, {micros}), stamp = ?, \
                 metaJson = '{{}}' WHERE id = ? AND version = ? AND stamp IS NULL"
            )),
            create: sql(format!(
                "INSERT INTO {locks} (id, dataJson, version, stamp, metaJson) \
                 VALUES (?, '{{}}', {greatest}(?, {micros}), ?, '{{}}')"
            )),
            insert_sessions: format!(
                "INSERT INTO {sessions} \
                 (id, namespace, taskId, host, process, ttlMs, beat, seenAt) VALUES "
            ),
            insert_sessions_end: format!(", 0, {seen_at})"),
            insert_fences: format!("INSERT INTO {fences} (session, touched) VALUES "),
            renew: format!("UPDATE {sessions} SET beat = beat + 1, seenAt = {seen_at} WHERE id IN"),
            liveness: format!(
                "SELECT f.session, s.id, s.taskId, s.host, s.process, s.ttlMs, s.beat, {rows} \
                 FROM {fences} f LEFT JOIN {sessions} s ON s.id = f.session WHERE f.session IN"
            ),
            sessions_in: sql(format!(
                "SELECT id, taskId, host, process, ttlMs, beat, {rows} FROM {sessions} \
                 WHERE namespace = ?"
            )),
            fences_in: sql(format!(
                "SELECT session, {rows} FROM {fences} WHERE session >= ? AND session < ?"
            )),
            delete_session: sql(format!("DELETE FROM {sessions} WHERE id = ?")),
            delete_session_at: sql(format!("DELETE FROM {sessions} WHERE id = ? AND beat = ?")),
            delete_sessions: format!("DELETE FROM {sessions} WHERE id IN"),
            try_fences: None,
            delete_fences: sql(format!(
                "DELETE FROM {fences} WHERE session >= ? AND session < ?"
            )),
            try_fence_list: None,
            delete_fence_list: format!("DELETE FROM {fences} WHERE session IN"),
            without_heartbeat: syntax.with_placeholders(
                3,
                &format!(
                    " AND NOT EXISTS (SELECT 1 FROM {sessions} WHERE id = ?) \
                     AND (SELECT {count} FROM {sessions} WHERE id = ?) = ?"
                ),
            ),
            without_row: syntax.with_placeholders(
                2,
                &format!(" AND NOT EXISTS (SELECT 1 FROM {locks} AS l WHERE l.id = ?)"),
            ),
            with_unstamped_row: syntax.with_placeholders(
                2,
                &format!(
                    " AND EXISTS (SELECT 1 FROM {locks} AS l \
                     WHERE l.id = ? AND l.version = ? AND l.stamp IS NULL)"
                ),
            ),
            await_fence: Vec::new(),
            notify: None,
            synchronous: None,
            data_version: None,
        }
    }
}

impl Statements {
    /// The statements of turns.
    ///
    /// # Panics
    ///
    /// If there are none.
    pub(super) fn turns(&self) -> &TurnStatements {
        self.turns.as_ref().expect("BUG: there are no turns")
    }
}

/// Reading the row under its lock.
#[derive(Debug)]
pub(super) struct RowLock {
    pub(super) begin: &'static str,
    /// Follows `begin`: the server ends the transaction after an idle second.
    pub(super) limit: Option<&'static str>,
    /// id → dataJson, version, stamp, metaJson
    pub(super) read: String,
    /// This and `rollback` name their chain and release behaviour, if a setting could change
    /// it.
    pub(super) commit: &'static str,
    pub(super) rollback: &'static str,
}

/// A condition on a list: the text before and after the list.
#[derive(Debug)]
pub(super) struct Condition {
    pub(super) before: String,
    pub(super) after: &'static str,
}

/// The statement that fences a transaction of the application.
#[derive(Clone, Debug)]
pub(crate) struct FenceStatement {
    pub(super) sql: Arc<str>,
    /// A query for transactions that have read and cannot write any more.
    pub(super) reader: Option<Arc<str>>,
    pub(super) kind: FenceKind,
    pub(super) engine: &'static str,
    /// Whether the statements also require the grant in the locks row. Their arguments are
    /// the fence row, and then also the namespace and the marker of the grant.
    pub(super) looks_at_row: bool,
    /// The file of the locks, if they are in one.
    pub(super) file: FileIdentity,
    /// The number of fence rows of a session.
    pub(crate) rows: usize,
}

/// What a fence statement is.
#[allow(
    dead_code,
    reason = "the constructed variants depend on the compiled engines"
)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FenceKind {
    /// A query that returns one row.
    Query,
    /// A query that returns one row and is prepared each time, because connections are shared.
    UnnamedQuery,
    /// An update of one row.
    Update,
}

/// The fence of one grant.
#[derive(Clone, Debug)]
pub(crate) struct Fence {
    pub(super) statement: FenceStatement,
    /// The key of the fence row.
    row: Arc<str>,
    namespace: Arc<str>,
    /// A text that `metaJson` contains exactly while the grant is in it.
    marker: Arc<str>,
}

impl Fence {
    pub(crate) fn new(
        statement: FenceStatement,
        row: Arc<str>,
        namespace: Arc<str>,
        marker: Arc<str>,
    ) -> Self {
        Self {
            statement,
            row,
            namespace,
            marker,
        }
    }

    /// The arguments of the statements.
    pub(super) fn args(&self) -> impl Iterator<Item = &str> {
        let count = if self.statement.looks_at_row { 3 } else { 1 };
        let all = [&*self.row, &*self.namespace, &*self.marker];
        all.into_iter().take(count)
    }
}

impl FenceStatement {
    /// A statement that no test runs.
    #[cfg(test)]
    pub(crate) fn for_test() -> Self {
        Self {
            sql: "".into(),
            reader: None,
            kind: FenceKind::Update,
            engine: "",
            looks_at_row: false,
            file: FileIdentity::none(),
            rows: 1,
        }
    }

    /// Fails if a connection of this engine cannot be in the database of the locks.
    pub(super) fn check(&self, engine: &str) -> Result<()> {
        if self.engine == engine {
            return Ok(());
        }
        Err(LockError::config(
            "connection",
            format!(
                "the locks are in {}, and this connection is to {engine}: \
                 a transaction is fenced in the database of its locks",
                self.engine
            ),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::names::TableChoice;

    const NUMBERED: Syntax = Syntax {
        placeholder: |number| format!("${number}"),
        count: "COUNT(*)",
        greatest: "MAX",
        micros: "now",
        seen_at: "now",
    };

    #[test]
    fn placeholders_are_numbered_in_the_order_of_the_arguments() {
        assert_eq!(NUMBERED.with_placeholders(1, "none"), "none");
        assert_eq!(NUMBERED.with_placeholders(1, "?, ?"), "$1, $2");
        assert_eq!(NUMBERED.with_placeholders(3, "a = ? b"), "a = $3 b");
    }

    #[test]
    fn conditions_continue_the_numbers_of_their_statement() {
        let names = TableChoice::default().names(None, '"');
        let statements = Statements::new(&names, &NUMBERED);
        for (statement, condition, count) in [
            (&statements.delete_fences, &statements.without_heartbeat, 5),
            (&statements.delete_session, &statements.without_row, 2),
            (
                &statements.delete_session,
                &statements.with_unstamped_row,
                3,
            ),
        ] {
            let sql = format!("{statement}{condition}");
            let numbers = sql.split('$').skip(1).map(|rest| &rest[..1]);
            let numbers: Vec<usize> = numbers.map(|n| n.parse().unwrap()).collect();
            assert_eq!(numbers, (1..=count).collect::<Vec<_>>(), "{sql}");
        }
    }
}
