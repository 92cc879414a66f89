//! The request rows, and the turns.

use std::{collections::BTreeMap, time::Duration};

use super::{
    database::{ConnectionId, IDLE_LIMIT},
    execution::Connection,
    statement::{Reply, Statement},
};
use crate::{
    protocol::config::Name,
    store::{Failure, Submission, Turn, TurnOutcome},
};

/// How long a process waits for its turn.
pub(super) const TURN_LIMIT: Duration = Duration::from_millis(300);

/// What a driver has submitted.
#[derive(Clone, Debug)]
struct RequestRow {
    namespace: Name,
    number: i64,
    body: String,
    /// The highest number that was claimed.
    claimed: i64,
    /// The number that was served last.
    served: i64,
}

/// The request rows, and the turns.
#[derive(Debug, Default)]
pub(super) struct RequestRows {
    rows: BTreeMap<String, RequestRow>,
    turns: BTreeMap<Name, ConnectionId>,
    /// Connections whose driver is gone, and since when. The server does not know it yet.
    broken: BTreeMap<ConnectionId, Duration>,
}

impl RequestRows {
    /// Runs a statement, if it is one of turns.
    pub(super) fn run(&mut self, connection: ConnectionId, statement: &Statement) -> Option<Reply> {
        Some(match statement {
            Statement::Submit(namespace, submission) => {
                self.submit(namespace, submission);
                Reply::Nothing
            }
            Statement::AwaitTurn(namespace) => {
                self.turns.insert(namespace.clone(), connection);
                Reply::Number(Some(1))
            }
            Statement::PassIfServed(own) => {
                let served = self.pass_if_served(connection, own);
                Reply::Number(Some(i64::from(served)))
            }
            Statement::Claim(namespace, own) => Reply::Turn(self.claim(namespace, own)),
            Statement::PassTurn(served) => {
                self.pass(connection, served);
                Reply::Nothing
            }
            _ => return None,
        })
    }

    fn submit(&mut self, namespace: &Name, submission: &Submission) {
        let Submission {
            driver,
            number,
            body,
        } = submission.clone();
        let row = self.rows.entry(driver).or_insert_with(|| RequestRow {
            namespace: namespace.clone(),
            number: 0,
            body: String::new(),
            claimed: 0,
            served: 0,
        });
        if row.number < number {
            row.number = number;
            row.body = body;
        }
    }

    /// Whether another connection has the turn.
    pub(super) fn has_turn(&self, namespace: &Name, not: ConnectionId) -> bool {
        let turn = self.turns.get(namespace);
        turn.is_some_and(|connection| *connection != not)
    }

    /// Passes the turn on if this submission was served, and says whether it was.
    fn pass_if_served(&mut self, connection: ConnectionId, own: &Submission) -> bool {
        let row = self.rows.get(&own.driver);
        let served = row.is_some_and(|row| row.served == own.number);
        if served {
            self.free(connection);
        }
        served
    }

    /// Claims what was submitted.
    fn claim(&mut self, namespace: &Name, own: &Submission) -> TurnOutcome {
        let claimed = self.rows.get(&own.driver).map(|row| row.claimed);
        let mut others = Vec::new();
        for (driver, row) in &mut self.rows {
            if row.namespace == *namespace && row.claimed < row.number {
                row.claimed = row.number;
                if *driver != own.driver && !row.body.is_empty() {
                    others.push(Submission {
                        driver: driver.clone(),
                        number: row.number,
                        body: row.body.clone(),
                    });
                }
            }
        }
        TurnOutcome::Held { others, claimed }
    }

    fn pass(&mut self, connection: ConnectionId, served: &[(String, i64)]) {
        for (driver, number) in served {
            if let Some(row) = self.rows.get_mut(driver)
                && row.number == *number
            {
                row.served = *number;
            }
        }
        self.free(connection);
    }

    /// The connection has no turn any more.
    pub(super) fn free(&mut self, connection: ConnectionId) {
        self.turns.retain(|_, of| *of != connection);
        self.broken.remove(&connection);
    }

    /// The driver of a connection is gone. A statement of it may be under way.
    pub(super) fn on_broken(&mut self, connection: ConnectionId, now: Duration) {
        self.broken.insert(connection, now);
    }

    pub(super) fn is_broken(&self, connection: ConnectionId) -> bool {
        self.broken.contains_key(&connection)
    }

    /// When the server sees next that the driver of a connection is gone that has a turn.
    pub(super) fn next_end(&self) -> Option<Duration> {
        let broken = self.turns.values().filter_map(|id| self.broken.get(id));
        broken.map(|since| *since + IDLE_LIMIT).min()
    }

    /// Ends the connections that have a turn and no driver.
    pub(super) fn end_broken(&mut self, now: Duration) -> Vec<ConnectionId> {
        let broken = &self.broken;
        let is_over = |id: &ConnectionId| broken.get(id).is_some_and(|at| *at + IDLE_LIMIT <= now);
        let ended = self.turns.extract_if(.., |_, id| is_over(id));
        ended.map(|(_, id)| id).collect()
    }
}

/// Submits, waits for the turn, and reads the row before anything is claimed.
pub(super) async fn take_turn(
    c: &Connection,
    namespace: &Name,
    submission: Submission,
) -> Result<Turn, Failure> {
    c.ask(Statement::Submit(namespace.clone(), submission.clone()))
        .await?;
    let came = c.is_one(Statement::AwaitTurn(namespace.clone())).await?;
    let served = came
        && c.is_one(Statement::PassIfServed(submission.clone()))
            .await?;
    let row = c.read(namespace).await?;
    if !came || served {
        let outcome = if came {
            TurnOutcome::Served
        } else {
            TurnOutcome::Missed
        };
        return Ok(Turn { row, outcome });
    }
    match c
        .ask(Statement::Claim(namespace.clone(), submission))
        .await?
    {
        Reply::Turn(outcome) => Ok(Turn { row, outcome }),
        reply => panic!("no turn: {reply:?}"),
    }
}
