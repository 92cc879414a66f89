//! The dialect of an engine: its SQL text, its settings and its catalog queries.

use std::{collections::BTreeMap, time::Duration};

use super::{
    change::ChangeSource,
    names::TableNames,
    statements::{FenceStatement, Statements},
};

/// Everything that differs between engines, except error codes.
#[derive(Debug)]
pub(super) struct Dialect {
    /// The name in errors and log events.
    pub(super) name: &'static str,
    /// The quotation mark of names.
    pub(super) quote: char,
    /// In their order. A statement may find that it was run before.
    pub(super) migrations: &'static [Migration],
    /// Those of tables without which everything works, more slowly. They are applied where turns
    /// are taken.
    pub(super) optional: &'static [Migration],
    /// How the engine reports changes.
    pub(super) change_source: ChangeSource,
    /// Run first on the first connection, so that no setting truncates the answers.
    pub(super) unlimited: Option<&'static str>,
    /// The query of the facts, run once on the first connection → name, value
    pub(super) facts: &'static str,
    /// The texts that a new connection runs first, for this time limit of a statement.
    pub(super) settings: fn(Duration, &Facts) -> Vec<String>,
    /// The text that begins the transaction of each statement, if connections are shared with
    /// other clients and settings do not stay on them.
    pub(super) transaction: fn(Duration, &Facts) -> Option<String>,
    pub(super) statements: fn(&TableNames, &Facts) -> Statements,
    pub(super) fence: fn(&TableNames, &Facts) -> FenceStatement,
    pub(super) catalog: fn(&TableNames) -> Catalog,
    /// Whether a column of this type can store every value of this use.
    pub(super) fits: fn(ColumnUse, &str) -> bool,
    /// Why no statement that writes can succeed, if a setting of the server forbids it.
    pub(super) unusable: fn(&Facts) -> Option<String>,
    /// A warning about settings of the server with which a crash can undo a committed write.
    pub(super) relaxed: fn(&Facts) -> Option<String>,
}

/// A file with statements that create or change the tables.
#[derive(Debug)]
pub(super) struct Migration {
    /// The path in the repository, for users.
    pub(super) path: &'static str,
    pub(super) sql: &'static str,
}

impl Dialect {
    /// The paths of the migrations, for users.
    pub(super) fn migration_paths(&self) -> String {
        let paths: Vec<_> = self.migrations.iter().map(|one| one.path).collect();
        paths.join(", ")
    }
}

/// The catalog queries about the three tables.
#[derive(Debug)]
pub(super) struct Catalog {
    /// → table, kind (`table` for a base table), what is wrong with its storage
    pub(super) tables: String,
    /// → table, column, type
    pub(super) columns: String,
    /// → table, column, for every column that is a unique key by itself
    pub(super) keys: String,
    pub(super) rights: Rights,
    /// → schema, and `usable` if the account can use its tables, for every other schema with
    /// the three tables
    pub(super) elsewhere: Option<String>,
}

/// How to find the missing rights of the account.
#[allow(
    dead_code,
    reason = "the constructed variants depend on the compiled engines"
)]
#[derive(Debug)]
pub(super) enum Rights {
    /// The engine has no accounts.
    None,
    /// → table, right, for every missing right
    Query(String),
    /// Statements that change nothing and fail if a right is missing.
    Statements(Vec<String>),
}

/// The fact that a connection is shared with other clients: a pooler gives it to another one
/// after each transaction. Settings and prepared statements do not stay on it.
pub(super) const SHARED: &str = "connections are shared";

/// The use of a column, as far as it decides the type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ColumnUse {
    /// A number of 64 bits.
    Number,
    /// Text of any length and script.
    Text,
    /// Text of any script.
    Name,
    /// Any other: every type will do.
    Any,
}

/// Facts about the server, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts(BTreeMap<String, String>);

#[allow(dead_code, reason = "the used methods depend on the compiled engines")]
impl Facts {
    pub(super) fn insert(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.0.insert(name.into(), value.into());
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    pub(super) fn number(&self, name: &str) -> Option<usize> {
        self.get(name)?.parse().ok()
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    pub(super) fn is(&self, name: &str, value: &str) -> bool {
        self.get(name)
            .is_some_and(|found| found.eq_ignore_ascii_case(value))
    }
}

/// A share of a time limit, in milliseconds, so that the server ends a statement before the
/// client drops its connection.
#[allow(dead_code, reason = "not every engine has limits")]
pub(super) fn share(limit: Duration, tenths: u32) -> u128 {
    (limit * tenths / 10).as_millis().max(1)
}
