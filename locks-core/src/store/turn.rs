//! Turns: a session-level lock of the server that is granted in order of arrival, and the table
//! in which processes submit requests to each other.
//!
//! Several statements are one message, so that they take one round trip: submit, wait for the turn,
//! pass it on if the submission was served meanwhile, read the locks row, and claim what was
//! submitted if the turn was not passed on. The server runs them in this order, each on what was
//! committed before it.

use std::{fmt::Write as _, sync::Arc};

use super::{
    connection::{Connection, row_version},
    executor::{Argument, ColumnType, Value},
    failure::{Class, Failure, Kind},
    names::TableNames,
    rows::LocksRow,
    statements::Statements,
    target::Server,
};
use crate::random::unique;

/// What a process has submitted, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Submission {
    /// The id of the driver's request row.
    pub(crate) driver: String,
    /// It rises with every submission of the driver.
    pub(crate) number: i64,
    /// ASCII.
    pub(crate) body: String,
}

impl Submission {
    const fn nothing() -> Self {
        Self {
            driver: String::new(),
            number: 0,
            body: String::new(),
        }
    }
}

/// What a process found at its turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Turn {
    pub(crate) row: Option<LocksRow>,
    pub(crate) outcome: TurnOutcome,
}

/// How a turn came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TurnOutcome {
    /// The process has the turn, and these submissions of others are claimed for it.
    Held {
        others: Vec<Submission>,
        /// The last submission of this process that others had claimed; `None`: it is not known.
        claimed: Option<i64>,
    },
    /// Another process has done what was submitted, and the turn was passed on.
    Served,
    /// The turn did not come within its time limit.
    Missed,
}

/// The statements of turns.
///
/// To prepare them takes a server longer than to run them. So each is prepared once on a connection,
/// or executes what was prepared by name.
#[derive(Debug)]
pub(super) struct TurnStatements {
    /// Prepares what the others execute, once on each connection.
    pub(super) prepare: Option<String>,
    /// Inserts or replaces what a driver has submitted, if `$number` is higher. `None`: nothing is
    /// ever submitted, and each process writes for itself at its turn.
    pub(super) submit: Option<Message>,
    /// Submits, waits for the turn, passes it on if `$number` was served, reads the row, and claims
    /// what was submitted if the turn was not passed on. → rows of [`TYPES`] texts, of which the
    /// first says what the others are: `turn` (1 if it came, 1 if `$number` was served, the last
    /// submission of this driver that was claimed before, dataJson, version, stamp, metaJson),
    /// `other` (driver, number, body)
    pub(super) take: Message,
    /// The turn did not come if the message fails with this. `None`: `take` says so.
    pub(super) missed: Option<Kind>,
    /// Marks submissions as served: `$list_of_drivers` and `$list_of_numbers` with commas, `$pairs`
    /// as conditions.
    pub(super) serve: Message,
    pub(super) pass: Message,
    /// Deletes what drivers submitted that are gone.
    pub(super) clean: Option<String>,
    /// Statements that change nothing. They fail if the table or a right is missing.
    pub(super) check: Vec<String>,
}

/// Statements with words in the place of values, such as `$driver`.
#[derive(Debug)]
pub(super) struct Message {
    /// Each word with the text before it.
    parts: Vec<(String, &'static str)>,
    end: String,
    /// The text with placeholders, if the words are arguments of a prepared statement.
    prepared: Option<String>,
}

/// Where in a message a value is put. No word begins with another one.
const WORDS: [&str; 10] = [
    "$driver",
    "$namespace",
    "$number",
    "$body",
    "$hex",
    "$turn",
    "$key",
    "$list_of_drivers",
    "$list_of_numbers",
    "$pairs",
];

/// How long a turn is waited for, in milliseconds.
#[allow(dead_code, reason = "not every engine has turns")]
pub(super) const TURN_LIMIT: u32 = 300;

/// The columns of every row of [`TurnStatements::take`].
const TYPES: &[ColumnType] = &[ColumnType::Text; 8];

#[allow(dead_code, reason = "not every engine has turns")]
impl Message {
    /// Statements whose text contains the values.
    pub(super) fn text(text: &str) -> Self {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('$') {
            let word = WORDS.iter().find(|word| after.starts_with(&word[1..]));
            let word = word.expect("BUG: the statements of turns have an unknown word");
            parts.push((before.to_owned(), *word));
            rest = &after[word.len() - 1..];
        }
        Self {
            parts,
            end: rest.to_owned(),
            prepared: None,
        }
    }

    /// A statement that is prepared once, with the values as its arguments.
    pub(super) fn prepared(text: &str) -> Self {
        let message = Self::text(text);
        let parts = message.parts.iter();
        let sql = parts.fold(String::new(), |sql, (before, _)| sql + before + "?");
        Self {
            prepared: Some(sql + &message.end),
            ..message
        }
    }

    fn fill(&self, values: &Values<'_>) -> String {
        let mut text = String::with_capacity(1024);
        for (before, word) in &self.parts {
            text.push_str(before);
            values.write(word, &mut text);
        }
        text.push_str(&self.end);
        text
    }
}

/// What the words of a message stand for.
#[derive(Clone, Copy, Debug, Default)]
struct Values<'a> {
    namespace: &'a str,
    submission: Option<&'a Submission>,
    served: &'a [(String, i64)],
}

impl Values<'_> {
    /// The names of drivers and namespaces need no quoting.
    fn write(&self, word: &str, text: &mut String) {
        let Submission {
            driver,
            number,
            body,
        } = self.submission.unwrap_or(const { &Submission::nothing() });
        // Writing to a string does not fail.
        let _ = match word {
            "$driver" => write!(text, "{driver}"),
            "$number" => write!(text, "{number}"),
            "$body" => write!(text, "{body}"),
            "$hex" => body.bytes().try_for_each(|byte| write!(text, "{byte:02x}")),
            "$turn" => write!(text, "{:016x}", unique()),
            "$key" => write!(text, "{}", key(self.namespace)),
            "$list_of_drivers" => list(self.served, ",", text, |text, (driver, _)| {
                write!(text, "{driver}")
            }),
            "$list_of_numbers" => list(self.served, ",", text, |text, (_, number)| {
                write!(text, "{number}")
            }),
            "$pairs" => list(self.served, " OR ", text, |text, (driver, number)| {
                write!(text, "(driver = '{driver}' AND number = {number})")
            }),
            _ => write!(text, "{}", self.namespace),
        };
    }
}

fn list<T>(
    items: &[T],
    separator: &str,
    text: &mut String,
    write: impl Fn(&mut String, &T) -> std::fmt::Result,
) -> std::fmt::Result {
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            text.push_str(separator);
        }
        write(text, item)?;
    }
    Ok(())
}

#[allow(dead_code, reason = "not every engine has turns")]
impl TurnStatements {
    /// Statements that check the table, which has these columns.
    pub(super) fn check(names: &TableNames, columns: &str) -> Vec<String> {
        let table = names.requests();
        vec![
            format!("INSERT INTO {table} ({columns}) SELECT {columns} FROM {table} WHERE 1 = 0"),
            format!("UPDATE {table} SET number = number WHERE 1 = 0"),
            format!("DELETE FROM {table} WHERE 1 = 0"),
        ]
    }
}

impl Connection {
    /// Whether turns can be taken. The table is created if it is missing, and if that is possible
    /// and wanted.
    pub(super) async fn prepare_turns(&mut self, server: &Server) -> Result<bool, Failure> {
        let Some(turns) = &server.statements.turns else {
            return Ok(false);
        };
        for attempt in 0..2 {
            let failure = match self.check_turns(turns).await {
                Ok(()) => return Ok(true),
                Err(failure) if failure.keeps_connection() => failure,
                Err(failure) => return Err(failure),
            };
            tracing::debug!(%failure, "processes cannot write for each other");
            if failure.kind != Kind::Missing || attempt > 0 || server.must_exist {
                break;
            }
            let optional = server.dialect.optional.iter();
            for statement in optional.flat_map(|one| server.names.migration(one.sql)) {
                match self.run_raw(&statement).await {
                    Err(failure) if !failure.keeps_connection() => return Err(failure),
                    _ => {}
                }
            }
        }
        Ok(false)
    }

    async fn check_turns(&mut self, turns: &TurnStatements) -> Result<(), Failure> {
        for statement in &turns.check {
            self.raw(statement).await?;
        }
        match &turns.clean {
            Some(clean) => self.raw(clean).await,
            None => Ok(()),
        }
    }

    /// Submits, waits for the turn and reads the row.
    pub(crate) async fn take_turn(
        &mut self,
        namespace: &str,
        submission: &Submission,
    ) -> Result<Turn, Failure> {
        let statements = self.turn_statements().await?;
        let turns = statements.turns();
        let values = Values {
            namespace,
            submission: Some(submission),
            ..Values::default()
        };
        let taken = match self.send(&turns.take, values, TYPES).await {
            Ok(rows) => Taken::parse(rows)?,
            Err(failure) if turns.missed == Some(failure.kind) => Taken {
                row: self.read(namespace).await?,
                ..Taken::default()
            },
            Err(failure) => {
                // The turn may have come before the statement that failed.
                if failure.keeps_connection() {
                    self.pass_turn(namespace, &[]).await?;
                }
                return Err(failure);
            }
        };
        let outcome = match (taken.came, taken.served) {
            (false, _) => TurnOutcome::Missed,
            (true, true) => TurnOutcome::Served,
            (true, false) => TurnOutcome::Held {
                others: taken.others,
                claimed: taken.claimed,
            },
        };
        let row = taken.row;
        Ok(Turn { row, outcome })
    }

    /// Passes the turn on, after these submissions were served.
    pub(crate) async fn pass_turn(
        &mut self,
        namespace: &str,
        served: &[(String, i64)],
    ) -> Result<(), Failure> {
        let statements = self.turn_statements().await?;
        let turns = statements.turns();
        let values = Values {
            namespace,
            served,
            ..Values::default()
        };
        let mut text = turns.pass.fill(&values);
        if !served.is_empty() {
            text = format!("{}; {text}", turns.serve.fill(&values));
        }
        // A connection that may still have the turn is closed.
        self.raw(&text).await.map_err(Failure::into_indeterminate)
    }

    /// Submits without waiting for the turn.
    pub(crate) async fn submit(
        &mut self,
        namespace: &str,
        submission: &Submission,
    ) -> Result<(), Failure> {
        let statements = self.turn_statements().await?;
        let Some(submit) = &statements.turns().submit else {
            return Ok(());
        };
        let values = Values {
            namespace,
            submission: Some(submission),
            ..Values::default()
        };
        self.send(submit, values, &[]).await.map(drop)
    }

    async fn send(
        &mut self,
        message: &Message,
        values: Values<'_>,
        types: &[ColumnType],
    ) -> Result<Vec<Vec<Value>>, Failure> {
        let Some(sql) = &message.prepared else {
            return self.fetch_raw(&message.fill(&values), types).await;
        };
        let texts = message.parts.iter().map(|(_, word)| {
            let mut text = String::new();
            values.write(word, &mut text);
            text
        });
        let texts: Vec<_> = texts.collect();
        let args: Vec<_> = texts.iter().map(|text| Argument::Text(text)).collect();
        self.fetch(sql, &args, types).await
    }

    /// The statements, of which the connection has prepared what it has to.
    async fn turn_statements(&mut self) -> Result<Arc<Statements>, Failure> {
        let statements = self.statements.clone();
        if let Some(prepare) = &statements.turns().prepare
            && !self.turns_prepared
        {
            self.raw(prepare).await?;
            self.turns_prepared = true;
        }
        Ok(statements)
    }
}

/// The number of a namespace's turn, for engines whose locks have numbers: FNV-1a of its name. Two
/// namespaces with one number would wait for each other without need.
fn key(namespace: &str) -> String {
    const START: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01b3;
    let step = |sum: u64, byte: u8| (sum ^ u64::from(byte)).wrapping_mul(PRIME);
    let sum = namespace.bytes().fold(START, step);
    sum.cast_signed().to_string()
}

/// The rows of [`TurnStatements::take`].
#[derive(Debug, Default)]
struct Taken {
    came: bool,
    served: bool,
    claimed: Option<i64>,
    row: Option<LocksRow>,
    others: Vec<Submission>,
}

impl Taken {
    fn parse(rows: Vec<Vec<Value>>) -> Result<Self, Failure> {
        let mut this = Self::default();
        // Without it the connection may have the turn. It is closed.
        let mut is_complete = false;
        for values in rows {
            let mut values = values.into_iter();
            let mut next = || values.next().unwrap_or(Value::Text(None));
            match next().text().as_deref() {
                Some("turn") => {
                    is_complete = true;
                    this.came = next().int() == Some(1);
                    this.served = next().int() == Some(1);
                    this.claimed = next().int();
                    let data_json = next().text();
                    let (version, stamp) = (next(), next());
                    if let Value::Text(Some(_)) = version {
                        this.row = Some(LocksRow {
                            version: row_version(version, stamp),
                            data_json,
                            meta_json: next().text(),
                        });
                    }
                }
                Some("other") => this.others.push(Submission {
                    driver: next().text().unwrap_or_default(),
                    number: next().int().unwrap_or_default(),
                    body: next().text().unwrap_or_default(),
                }),
                what => {
                    let text = format!("a turn has a row of {what:?}");
                    return Err(Failure::inconsistent(Class::Indeterminate, text));
                }
            }
        }
        if is_complete {
            Ok(this)
        } else {
            let text = "the answer does not say whether the turn came";
            Err(Failure::inconsistent(Class::Indeterminate, text))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "a $driver, $number x $hex: $namespace; $pairs [$list_of_drivers]";

    fn submission() -> Submission {
        Submission {
            driver: "d1".into(),
            number: 7,
            body: "'é".into(),
        }
    }

    #[test]
    fn words_are_replaced_by_values() {
        let (submission, served) = (submission(), [("d2".into(), 3), ("d3".into(), 4)]);
        let values = Values {
            namespace: "n",
            submission: Some(&submission),
            served: &served,
        };
        assert_eq!(
            Message::text(TEXT).fill(&values),
            "a d1, 7 x 27c3a9: n; (driver = 'd2' AND number = 3) OR \
             (driver = 'd3' AND number = 4) [d2,d3]"
        );
        let key = Message::text("$key").fill(&values);
        assert_eq!(key, Message::text("$key").fill(&values));
        assert!(key.parse::<i64>().is_ok(), "{key}");
        let turn = || Message::text("$turn").fill(&values);
        assert_ne!(turn(), turn());
    }

    #[test]
    fn words_are_arguments_of_a_prepared_statement() {
        let message = Message::prepared("f($driver, $body); g($driver)");
        assert_eq!(message.prepared.as_deref(), Some("f(?, ?); g(?)"));
        let words: Vec<_> = message.parts.iter().map(|(_, word)| *word).collect();
        assert_eq!(words, ["$driver", "$body", "$driver"]);
    }

    #[test]
    fn a_turn_is_what_its_rows_say() {
        let row = |texts: &[&str]| {
            let given = texts.iter().map(|text| Some((*text).to_owned()));
            let values = given.chain(std::iter::repeat(None)).take(8);
            values.map(Value::Text).collect::<Vec<_>>()
        };
        let rows = vec![
            row(&["turn", "1", "0", "6", "{}", "41", "s", "m"]),
            row(&["other", "d2", "3", "body"]),
        ];
        let taken = Taken::parse(rows).unwrap();
        assert!(taken.came && !taken.served);
        assert_eq!(taken.claimed, Some(6));
        assert_eq!(taken.row.unwrap().version.version, 41);
        assert_eq!(
            (&*taken.others[0].body, taken.others[0].number),
            ("body", 3)
        );
        // Without a row in the table of locks.
        let taken = Taken::parse(vec![row(&["turn", "1", "1"])]).unwrap();
        assert!(taken.served && taken.row.is_none() && taken.claimed.is_none());
        assert!(Taken::parse(vec![row(&["what"])]).is_err());
        assert!(Taken::parse(Vec::new()).is_err());
    }
}
