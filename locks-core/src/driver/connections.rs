//! The driver's connections, and what runs on them.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, future::LocalBoxFuture, stream::FuturesUnordered};
use tokio::time;

use super::{
    listener::{Heard, Listening},
    queries, tasks,
};
use crate::{
    protocol::{Completion, Name, Query, Renewal, Renewed, Task, TaskResult},
    store::{Failure, Reconnecting},
};

/// How long a statement may take on the connection that reads and writes the rows.
pub(super) const ROW_LIMIT: Duration = Duration::from_secs(5);
/// How long a statement of a task may take.
const TASK_LIMIT: Duration = Duration::from_secs(5);
/// How long a side connection stays open without being needed.
const SIDE_IDLE: Duration = Duration::from_secs(10);
/// How long the end waits for what runs.
const LAST_QUERY: Duration = Duration::from_secs(1);
/// How many tasks run at a time. None of them waits for an application's transaction.
const TASKS: usize = 2;

/// Something that ended.
pub(super) enum Event {
    Completed(Name, Completion),
    TaskDone(Name, TaskResult),
    /// No side connection could be opened for a task.
    NoConnection(Name, Task),
    Renewed(Renewed),
    Heard(Heard),
    ProbeSent(Result<(), Failure>),
    /// A side connection was closed.
    Closed,
}

/// A connection that is free again.
enum Returned {
    Row(Reconnecting),
    Renewals(Reconnecting),
    Side(Reconnecting),
    None,
}

impl Returned {
    fn take_reconnects(&mut self) -> u64 {
        match self {
            Self::Row(link) | Self::Renewals(link) | Self::Side(link) => link.take_reconnects(),
            Self::None => 0,
        }
    }
}

/// What runs on a side connection.
enum Job {
    Task(Name, Task),
    /// The notification with this id.
    Probe(String),
}

/// The driver's connections: one for the rows, one for renewals, [`TASKS`] side connections, and
/// the one that hears notifications.
pub(super) struct Connections {
    /// Side connections are made from it.
    source: Reconnecting,
    row: Option<Reconnecting>,
    renewals: Option<Reconnecting>,
    /// Side connections that are free, and since when.
    side: Vec<(Reconnecting, Instant)>,
    jobs_running: usize,
    /// Jobs for which no connection is free.
    jobs_waiting: VecDeque<Job>,
    /// How many connections were opened again after a failure, and are not reported yet.
    reconnects: u64,
    running: FuturesUnordered<LocalBoxFuture<'static, (Returned, Event)>>,
}

impl Connections {
    /// Each statement on the connection for renewals may take `renewal_limit`.
    pub(super) fn new(row: Reconnecting, renewal_limit: Duration) -> Self {
        Self {
            source: row.sibling(TASK_LIMIT, "tasks"),
            renewals: Some(row.sibling(renewal_limit, "renewals")),
            row: Some(row),
            side: Vec::new(),
            jobs_running: 0,
            jobs_waiting: VecDeque::new(),
            reconnects: 0,
            running: FuturesUnordered::new(),
        }
    }

    /// Runs a query. The protocol hands out one at a time.
    pub(super) fn query(&mut self, namespace: Name, query: Query) {
        let mut link = self.row.take().expect("BUG: one query at a time");
        self.running.push(Box::pin(async move {
            let completion = queries::run(query, &mut link, &namespace).await;
            (Returned::Row(link), Event::Completed(namespace, completion))
        }));
    }

    /// Runs a step of a renewal. The protocol hands out one at a time.
    pub(super) fn renew(&mut self, renewal: Renewal) {
        let mut link = self.renewals.take().expect("BUG: one renewal at a time");
        self.running.push(Box::pin(async move {
            let renewed = queries::renew(renewal, &mut link).await;
            (Returned::Renewals(link), Event::Renewed(renewed))
        }));
    }

    /// Runs a step of a renewal on the connection of the rows, which is free.
    pub(super) fn renew_over_rows(&mut self, renewal: Renewal) {
        let mut link = self.row.take().expect("BUG: one query at a time");
        self.running.push(Box::pin(async move {
            let renewed = queries::renew(renewal, &mut link).await;
            (Returned::Row(link), Event::Renewed(renewed))
        }));
    }

    /// Runs a task as soon as a side connection is free.
    pub(super) fn task(&mut self, namespace: Name, task: Task) {
        self.jobs_waiting.push_back(Job::Task(namespace, task));
        self.start_jobs();
    }

    /// Sends a notification as soon as a side connection is free.
    pub(super) fn probe(&mut self, id: String) {
        self.jobs_waiting.push_front(Job::Probe(id));
        self.start_jobs();
    }

    fn start_jobs(&mut self) {
        while self.jobs_running < TASKS
            && let Some(job) = self.jobs_waiting.pop_front()
        {
            let free = self.side.pop().map(|(link, _)| link);
            let mut link = free.unwrap_or_else(|| self.source.sibling(TASK_LIMIT, "tasks"));
            self.jobs_running += 1;
            self.running.push(Box::pin(async move {
                let is_open = link.with(async |_| Ok(())).await;
                let event = match (job, is_open) {
                    (Job::Task(namespace, task), Ok(())) => {
                        let result = tasks::run(task, &mut link, &namespace).await;
                        Event::TaskDone(namespace, result)
                    }
                    (Job::Task(namespace, task), Err(_)) => Event::NoConnection(namespace, task),
                    (Job::Probe(id), Ok(())) => {
                        Event::ProbeSent(link.with(async |c| c.probe(&id).await).await)
                    }
                    (Job::Probe(_), Err(failure)) => Event::ProbeSent(Err(failure)),
                };
                (Returned::Side(link), event)
            }));
        }
    }

    pub(super) fn listen(&mut self, listening: Listening) {
        self.running.push(Box::pin(async {
            (Returned::None, Event::Heard(listening.await))
        }));
    }

    /// Closes side connections that were not needed for some time.
    pub(super) fn close_idle(&mut self, now: Instant) {
        let idle = |(_, since): &mut (_, Instant)| now.duration_since(*since) >= SIDE_IDLE;
        for (mut link, _) in self.side.extract_if(.., idle) {
            self.running.push(Box::pin(async move {
                link.close().await;
                (Returned::None, Event::Closed)
            }));
        }
    }

    /// When a side connection is to be closed.
    pub(super) fn idle_due(&self) -> Option<Instant> {
        self.side.iter().map(|(_, since)| *since + SIDE_IDLE).min()
    }

    /// Waits until something ends. If nothing runs, it never returns. Cancel safe.
    pub(super) async fn next(&mut self) -> Event {
        let Some((mut returned, event)) = self.running.next().await else {
            return std::future::pending().await;
        };
        self.reconnects += returned.take_reconnects();
        match returned {
            Returned::Row(link) => self.row = Some(link),
            Returned::Renewals(link) => self.renewals = Some(link),
            Returned::Side(link) => {
                self.side.push((link, Instant::now()));
                self.jobs_running -= 1;
                self.start_jobs();
            }
            Returned::None => {}
        }
        event
    }

    /// How many connections were opened again after a failure since the last call.
    pub(super) fn take_reconnects(&mut self) -> u64 {
        std::mem::take(&mut self.reconnects)
    }

    /// Closes the connections. What runs is waited for briefly, and then dropped with its
    /// connection: SQLite closes a dropped one later, and its `-wal` file is still there then.
    pub(super) async fn close(mut self) {
        self.jobs_waiting.clear();
        let all_return = async {
            while self.row.is_none() || self.renewals.is_none() || self.jobs_running > 0 {
                self.next().await;
            }
        };
        drop(time::timeout(LAST_QUERY, all_return).await);
        let side = self.side.drain(..).map(|(link, _)| link);
        let links = self.row.take().into_iter().chain(self.renewals.take());
        for mut link in links.chain(side) {
            link.close().await;
        }
    }
}
