//! Turns: a session-level lock of the server that is granted in order of arrival, and the table
//! in which processes submit requests to each other.
//!
//! Several statements are one message, so that they take one round trip: submit, wait for the turn,
//! pass it on if the submission was served meanwhile, and read the locks row. The server runs them
//! in this order, each on what was committed before it. A process that has the turn claims what
//! was submitted with a second message.

use std::fmt::Write as _;

use super::{
    connection::{Connection, row_version},
    executor::{ColumnType, Value},
    failure::{Class, Failure, Kind},
    names::TableNames,
    rows::LocksRow,
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

/// The statements of turns, with words in the place of values: `$driver`, `$namespace`,
/// `$number`, `$body`, `$turn` and `$key`.
#[derive(Debug)]
pub(super) struct TurnStatements {
    /// Inserts or replaces what a driver has submitted, if `$number` is higher.
    pub(super) submit: String,
    /// Waits for the turn, passes it on if `$number` was served, and reads the row. → five texts in
    /// each row, of which the first says what the others are: `turn` (1 if it came), `served`,
    /// `row` (dataJson, version, stamp, metaJson)
    pub(super) take: String,
    /// Claims what was submitted. → in the same way `own` (the last submission of this driver that
    /// was claimed before), `other` (driver, number, body)
    pub(super) claim: String,
    /// The turn did not come if the message fails with this. `None`: `take` says so.
    pub(super) missed: Option<Kind>,
    /// Precedes the list of pairs of driver and number that were served.
    pub(super) serve: String,
    /// Follows the list.
    pub(super) served: &'static str,
    pub(super) pass: String,
    /// Deletes what drivers submitted that are gone.
    pub(super) clean: String,
    /// Statements that change nothing. They fail if the table or a right is missing.
    pub(super) check: Vec<String>,
    /// The file that creates the table.
    pub(super) migration: &'static str,
}

/// How long a turn is waited for, in milliseconds.
#[allow(dead_code, reason = "not every engine has turns")]
pub(super) const TURN_LIMIT: u32 = 300;

/// The columns of every row of [`TurnStatements::take`].
const TYPES: &[ColumnType] = &[ColumnType::Text; 5];

#[allow(dead_code, reason = "not every engine has turns")]
impl TurnStatements {
    /// The statements that do not differ between engines.
    pub(super) fn check(names: &TableNames) -> Vec<String> {
        let table = names.requests();
        let columns = "driver, namespace, number, claimed, claimer, served, seenAt, body";
        vec![
            format!("INSERT INTO {table} ({columns}) SELECT {columns} FROM {table} WHERE 1 = 0"),
            format!("UPDATE {table} SET number = number WHERE 1 = 0"),
            format!("DELETE FROM {table} WHERE 1 = 0"),
        ]
    }
}

impl Connection {
    /// Whether turns can be taken. The table is created if it is missing and if that is possible.
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
            if failure.kind != Kind::Missing || attempt > 0 {
                break;
            }
            for statement in server.names.migration(turns.migration) {
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
        self.raw(&turns.clean).await
    }

    /// Submits, waits for the turn and reads the row.
    pub(crate) async fn take_turn(
        &mut self,
        namespace: &str,
        submission: &Submission,
    ) -> Result<Turn, Failure> {
        let statements = self.statements.clone();
        let turns = statements.turns();
        let text = format!("{}; {}", turns.submit, turns.take);
        let text = fill(&text, namespace, submission);
        let taken = match self.fetch_raw(&text, TYPES).await {
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
        let row = taken.row;
        let outcome = match (taken.came, taken.served) {
            (false, _) => TurnOutcome::Missed,
            (true, true) => TurnOutcome::Served,
            // If this fails, the connection may still have the turn.
            (true, false) => self
                .claim(namespace, submission)
                .await
                .map_err(Failure::into_indeterminate)?,
        };
        Ok(Turn { row, outcome })
    }

    async fn claim(&mut self, namespace: &str, own: &Submission) -> Result<TurnOutcome, Failure> {
        let statements = self.statements.clone();
        let turn = format!("{:016x}", unique());
        let text = fill(&statements.turns().claim, namespace, own).replace("$turn", &turn);
        let claimed = Taken::parse(self.fetch_raw(&text, TYPES).await?)?;
        Ok(TurnOutcome::Held {
            others: claimed.others,
            claimed: claimed.own,
        })
    }

    /// Passes the turn on, after these submissions were served.
    pub(crate) async fn pass_turn(
        &mut self,
        namespace: &str,
        served: &[(String, i64)],
    ) -> Result<(), Failure> {
        let statements = self.statements.clone();
        let turns = statements.turns();
        let pairs = served.iter();
        let pairs =
            pairs.map(|(driver, number)| format!("(driver = '{driver}' AND number = {number})"));
        let pairs: Vec<_> = pairs.collect();
        let pass = turns
            .pass
            .replace("$namespace", namespace)
            .replace("$key", &key(namespace));
        let text = if pairs.is_empty() {
            pass
        } else {
            format!(
                "{}{}{}; {pass}",
                turns.serve,
                pairs.join(" OR "),
                turns.served
            )
        };
        // A connection that may still have the turn is closed.
        self.raw(&text).await.map_err(Failure::into_indeterminate)
    }

    /// Submits without waiting for the turn.
    pub(crate) async fn submit(
        &mut self,
        namespace: &str,
        submission: &Submission,
    ) -> Result<(), Failure> {
        let statements = self.statements.clone();
        let text = fill(&statements.turns().submit, namespace, submission);
        self.raw(&text).await
    }
}

/// The text with the values in it. The names of drivers and namespaces need no quoting.
fn fill(text: &str, namespace: &str, submission: &Submission) -> String {
    let Submission {
        driver,
        number,
        body,
    } = submission;
    let body = body.bytes().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    });
    text.replace("$driver", driver)
        .replace("$number", &number.to_string())
        .replace("$key", &key(namespace))
        .replace("$namespace", namespace)
        .replace("$body", &body)
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

/// The rows of [`TurnStatements::take`] and [`TurnStatements::claim`].
#[derive(Debug, Default)]
struct Taken {
    came: bool,
    served: bool,
    row: Option<LocksRow>,
    own: Option<i64>,
    others: Vec<Submission>,
}

impl Taken {
    fn parse(rows: Vec<Vec<Value>>) -> Result<Self, Failure> {
        let mut this = Self::default();
        for values in rows {
            let mut values = values.into_iter();
            let mut next = || values.next().unwrap_or(Value::Text(None));
            match next().text().as_deref() {
                Some("turn") => this.came = next().int() == Some(1),
                Some("served") => this.served = true,
                Some("row") => {
                    let data_json = next().text();
                    let version = row_version(next(), next());
                    let meta_json = next().text();
                    this.row = Some(LocksRow {
                        version,
                        data_json,
                        meta_json,
                    });
                }
                Some("own") => this.own = next().int(),
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
        Ok(this)
    }
}
