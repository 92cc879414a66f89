//! What an engine has to say: its SQL text, its settings, and what its catalog is asked.

use std::{collections::BTreeMap, time::Duration};

use super::{
    change::ChangeSource,
    names::TableNames,
    statements::{FenceStatement, Statements},
};

/// One engine. Everything that differs between engines, and is not an error code, is here.
#[derive(Debug)]
pub(super) struct Dialect {
    /// As errors and events call it.
    pub(super) name: &'static str,
    /// What the names of tables stand in.
    pub(super) quote: char,
    pub(super) migration: &'static str,
    /// Where users find the migration.
    pub(super) migration_path: &'static str,
    /// How the engine tells of changes.
    pub(super) change_source: ChangeSource,
    /// What the first connection runs before anything is asked, so that no setting cuts the
    /// answers off.
    pub(super) unlimited: Option<&'static str>,
    /// → name, value: asked once, on the first connection.
    pub(super) facts: &'static str,
    /// What a new connection runs first, one text after the other, where statements may
    /// take this long each.
    pub(super) settings: fn(Duration, &Facts) -> Vec<String>,
    /// What each statement's transaction begins with, where connections are shared with
    /// other clients and settings may not stay on them.
    pub(super) transaction: fn(Duration, &Facts) -> Option<String>,
    pub(super) statements: fn(&TableNames, &Facts) -> Statements,
    pub(super) fence: fn(&TableNames, &Facts) -> FenceStatement,
    pub(super) catalog: fn(&TableNames) -> Catalog,
    /// Whether a column of this type holds what we write: 64-bit numbers, and texts of any
    /// length and script.
    pub(super) fits: fn(ColumnUse, &str) -> bool,
    /// Settings of the server under which a crash may take a durable write back, as a
    /// sentence.
    pub(super) relaxed: fn(&Facts) -> Option<String>,
}

/// What the catalog is asked of the three tables.
#[derive(Debug)]
pub(super) struct Catalog {
    /// → table, kind (`table` for a base table), what is wrong with how it is stored
    pub(super) tables: String,
    /// → table, column, type
    pub(super) columns: String,
    /// → table, column, for every column that is a unique key by itself
    pub(super) keys: String,
    pub(super) rights: Rights,
    /// → schema and `usable` if the account may lock there, for every other schema that has
    /// the three tables
    pub(super) elsewhere: Option<String>,
}

/// How the account's rights are found out.
#[allow(dead_code, reason = "which of them are made depends on the engines")]
#[derive(Debug)]
pub(super) enum Rights {
    /// The engine has no accounts.
    None,
    /// → table, right, for every right that is missing
    Query(String),
    /// Statements that change nothing and fail where a right is missing.
    Statements(Vec<String>),
}

/// What a column is for, where its type matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ColumnUse {
    /// A number of 64 bits.
    Number,
    /// Text of any length and script.
    Text,
    /// Text of any script.
    Name,
    /// Nothing that depends on the type.
    Any,
}

/// What is known of the server, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts(BTreeMap<String, String>);

#[allow(dead_code, reason = "what is asked depends on the engines")]
impl Facts {
    pub(super) fn insert(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.0.insert(name.into(), value.into());
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    pub(super) fn is(&self, name: &str, value: &str) -> bool {
        self.get(name)
            .is_some_and(|found| found.eq_ignore_ascii_case(value))
    }
}

/// A share of a time limit, in milliseconds, so that the server ends a statement before
/// the client gives its connection up.
#[allow(dead_code, reason = "not every engine has limits")]
pub(super) fn share(limit: Duration, tenths: u32) -> u128 {
    (limit * tenths / 10).as_millis().max(1)
}
