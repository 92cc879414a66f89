//! The names of the three tables.

use std::sync::Arc;

use crate::error::{LockError, Result};

/// The longest prefix, in bytes. With the longest table name it fits every engine.
const LONGEST_PREFIX: usize = 40;
/// The longest schema, in bytes. PostgreSQL truncates longer names silently.
const LONGEST_SCHEMA: usize = 63;

/// The prefix and the schema that the caller has chosen.
#[derive(Clone, Debug, Default)]
pub(crate) struct TableChoice {
    prefix: String,
    schema: Option<String>,
    /// Whether connect creates nothing.
    pub(super) must_exist: bool,
}

impl TableChoice {
    /// Checks a choice. `None` is the default: no prefix, or the engine's first schema.
    ///
    /// # Errors
    ///
    /// [`LockError::InvalidConfig`] when the prefix or the schema is not a valid name.
    pub(crate) fn new(prefix: Option<String>, schema: Option<String>) -> Result<Self> {
        let prefix = prefix.unwrap_or_default();
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if prefix.len() > LONGEST_PREFIX || !prefix.chars().all(allowed) {
            return Err(LockError::config(
                "table prefix",
                format!("{prefix:?} is not 0–{LONGEST_PREFIX} characters of [a-z0-9_]"),
            ));
        }
        if let Some(schema) = &schema
            && (schema.is_empty() || schema.len() > LONGEST_SCHEMA || schema.contains('\0'))
        {
            return Err(LockError::config(
                "schema",
                format!("{schema:?} is not 1–{LONGEST_SCHEMA} bytes"),
            ));
        }
        Ok(Self {
            prefix,
            schema,
            must_exist: false,
        })
    }

    /// Whether connect may create the tables and widen them.
    pub(crate) fn created(self, created: bool) -> Self {
        let must_exist = !created;
        Self { must_exist, ..self }
    }

    pub(super) fn schema(&self) -> Option<&str> {
        self.schema.as_deref()
    }

    /// The names of the tables in `schema`, or without a schema.
    pub(super) fn names(&self, schema: Option<&str>, quote: char) -> TableNames {
        TableNames {
            quote,
            prefix: self.prefix.as_str().into(),
            schema: schema.map(Into::into),
        }
    }
}

/// The names of the tables, known after the first connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TableNames {
    /// The quotation mark of names.
    quote: char,
    prefix: Arc<str>,
    schema: Option<Arc<str>>,
}

/// The names without a prefix.
const TABLES: [&str; 3] = ["locks", "lock_sessions", "lock_fences"];
/// The name of the optional table, without a prefix.
const REQUESTS: &str = "lock_requests";

impl TableNames {
    pub(super) fn schema(&self) -> Option<&str> {
        self.schema.as_deref()
    }

    /// The names in catalogs: of the locks, the sessions and the fences.
    pub(super) fn plain(&self) -> [String; 3] {
        TABLES.map(|table| format!("{}{table}", self.prefix))
    }

    /// The names in statements.
    pub(super) fn quoted(&self) -> [String; 3] {
        self.plain().map(|table| self.in_schema(&table))
    }

    /// The name of the table of submissions in statements.
    pub(super) fn requests(&self) -> String {
        self.in_schema(&format!("{}{REQUESTS}", self.prefix))
    }

    fn in_schema(&self, table: &str) -> String {
        match &self.schema {
            Some(schema) => format!("{}.{}", self.quote(schema), self.table(table)),
            None => self.table(table),
        }
    }

    /// A name in statements. It is quoted only if necessary, so that the created tables are
    /// those of the migration.
    fn table(&self, name: &str) -> String {
        if name.starts_with(|c: char| c.is_ascii_digit()) {
            self.quote(name)
        } else {
            name.to_owned()
        }
    }

    fn quote(&self, name: &str) -> String {
        let quote = self.quote;
        let twice = format!("{quote}{quote}");
        format!("{quote}{}{quote}", name.replace(quote, &twice))
    }

    /// The statements of a migration, with these names.
    pub(super) fn migration(&self, text: &str) -> Vec<String> {
        let code = text
            .lines()
            .filter(|line| !line.trim_start().starts_with("--"));
        let code = code.collect::<Vec<_>>().join("\n");
        let statements = code.split(";\n").map(str::trim);
        statements
            .map(|statement| statement.trim_end_matches(';'))
            .filter(|statement| !statement.is_empty())
            .map(|statement| self.rename(statement))
            .collect()
    }

    /// The comments of a migration about the rights of accounts, with these names in the
    /// statements.
    pub(super) fn rights(&self, text: &str) -> Vec<String> {
        let schema = self.schema().map(|schema| self.quote(schema));
        let schema = schema.as_deref().unwrap_or("<schema>");
        let rights = text.lines().filter_map(|line| {
            if line.starts_with("--   GRANT ") {
                Some(self.rename(line).replace("<schema>", schema))
            } else {
                line.starts_with("-- The rights ").then(|| line.to_owned())
            }
        });
        rights.collect()
    }

    /// Replaces the names of tables and indexes. An index has a name that begins with
    /// `lock_`, and gets the prefix only: PostgreSQL creates it in the schema of its table.
    fn rename(&self, statement: &str) -> String {
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let mut renamed = String::with_capacity(statement.len());
        let mut rest = statement;
        while !rest.is_empty() {
            let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
            let (word, after) = rest.split_at(end);
            match TABLES.iter().position(|table| *table == word) {
                Some(table) => renamed.push_str(&self.quoted()[table]),
                None if word == REQUESTS => renamed.push_str(&self.requests()),
                None if word.starts_with("lock_") => {
                    renamed.push_str(&self.table(&format!("{}{word}", self.prefix)));
                }
                None => renamed.push_str(word),
            }
            let between = after.find(is_word).unwrap_or(after.len());
            renamed.push_str(&after[..between]);
            rest = &after[between..];
        }
        renamed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(prefix: &str, schema: Option<&str>) -> TableNames {
        let choice = TableChoice::new(Some(prefix.into()), schema.map(Into::into));
        let choice = choice.expect("a valid choice");
        choice.names(choice.schema(), '"')
    }

    #[test]
    fn migration_has_the_prefix_and_the_schema() {
        let text = "-- The locks.\nCREATE TABLE locks (\n    id TEXT, -- of locks\n    b TEXT\n);\n\
                    \n-- x\nCREATE INDEX lock_sessions_namespace ON lock_sessions (namespace);\n";
        assert_eq!(
            names("", None).migration(text),
            [
                "CREATE TABLE locks (\n    id TEXT, -- of locks\n    b TEXT\n)",
                "CREATE INDEX lock_sessions_namespace ON lock_sessions (namespace)",
            ]
        );
        assert_eq!(
            names("a_", Some("My \"s")).migration(text)[1],
            "CREATE INDEX a_lock_sessions_namespace ON \"My \"\"s\".a_lock_sessions (namespace)",
        );
        assert_eq!(
            names("1e", None).migration(text)[1],
            "CREATE INDEX \"1elock_sessions_namespace\" ON \"1elock_sessions\" (namespace)",
        );
    }

    #[test]
    fn rights_of_a_migration_have_the_prefix_and_the_schema() {
        let text = "-- The rights of locks:\n--   GRANT USAGE ON SCHEMA <schema> TO <account>;\n\
                    --   GRANT SELECT ON locks, lock_fences TO <account>;\n-- locks\nSELECT 1;\n";
        assert_eq!(
            names("a_", Some("s")).rights(text),
            [
                "-- The rights of locks:",
                "--   GRANT USAGE ON SCHEMA \"s\" TO <account>;",
                "--   GRANT SELECT ON \"s\".a_locks, \"s\".a_lock_fences TO <account>;",
            ]
        );
        let unnamed = names("", None).rights(text);
        assert_eq!(
            unnamed[1],
            "--   GRANT USAGE ON SCHEMA <schema> TO <account>;"
        );
    }

    #[test]
    fn invalid_prefix_or_schema_is_refused() {
        let of = |prefix: &str, schema: Option<&str>| {
            TableChoice::new(Some(prefix.into()), schema.map(Into::into))
        };
        for prefix in ["", "a", "app_1_", &"a".repeat(40)] {
            assert!(of(prefix, None).is_ok(), "{prefix}");
        }
        for prefix in ["A", "a-", "a b", "é", "a;", &"a".repeat(41)] {
            assert!(of(prefix, None).is_err(), "{prefix}");
        }
        assert!(of("", Some("Any schema \"at all\"")).is_ok());
        for schema in ["", "a\0", &"a".repeat(64)] {
            assert!(of("", Some(schema)).is_err(), "{schema:?}");
        }
    }
}
