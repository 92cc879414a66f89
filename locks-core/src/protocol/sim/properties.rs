//! What must be true of every schedule.
//!
//! Some properties are judged from what callers were told, the others from the row. A
//! supervisor, the original and a restored backup may take a lock from a living holder: such
//! a holder is told later, so it does not count for `exclusion`. Its fenced transactions do
//! count for `no-commit-after-the-next-grant`.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    callers::Caller,
    execution::parse,
    generate::{UNSTORABLE, UNSTORABLE_TASK},
    process::State,
    reports::Reports,
    row_properties::grants,
    schedule::{Patience, ProcessId, RequestNumber, process_name},
    statement::{OnlyIf, Statement},
    world::World,
};
use crate::{
    error::LockError,
    matrix::ConflictMatrix,
    name::{LockName, Mode},
    protocol::{EvictReason, Loss, Time, config::Name},
    store::LocksRow,
    table::{LockTable, Nonce, SessionId},
};

/// How late a grant whose time is over may be lost.
const LATE: Duration = Duration::from_millis(50);
/// How many queries a process may send in a second in which no caller calls.
const MOST_QUERIES: usize = 450;

/// A property that does not hold.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Violation {
    pub(super) property: &'static str,
    pub(super) detail: String,
}

/// What wrote to the row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Writer {
    /// A process, and how often it was started before.
    Process(ProcessId, u32),
    Original,
    Operator,
    /// A power loss has undone writes.
    PowerLoss,
}

/// A lock that was granted in the row.
#[derive(Debug)]
pub(super) struct GrantedName {
    pub(super) namespace: Name,
    pub(super) name: LockName,
    pub(super) mode: Mode,
    pub(super) session: SessionId,
    pub(super) nonce: Nonce,
    pub(super) token: i64,
}

/// What the properties remember.
#[derive(Debug, Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct Checks {
    /// The process of each session, and its incarnation.
    pub(super) session_owners: BTreeMap<SessionId, (ProcessId, u32)>,
    /// Every lock that was granted, in the order of the grants.
    pub(super) granted: Vec<GrantedName>,
    /// The first position of each request in the queue.
    pub(super) tickets: BTreeMap<Nonce, i64>,
    /// Sessions that were ended by force.
    forced: BTreeSet<SessionId>,
    /// Grants that were taken by force.
    pub(super) taken: BTreeSet<Nonce>,
    /// Grants whose release was answered.
    pub(super) released: Vec<RequestNumber>,
    /// Whether a row was deleted or restored.
    pub(super) started_anew: bool,
    /// Whether a backup was restored.
    pub(super) restored: bool,
    /// Whether a wall clock was changed.
    pub(super) clocks_changed: bool,
    /// Whether a supervisor has removed everything, the original's locks included.
    pub(super) removed_all: bool,
    /// Whether every process has to end without an error.
    pub(super) must_end_well: bool,
    /// When the faults stopped.
    pub(super) calm_since: Duration,
    /// Whether the rate of queries is judged.
    pub(super) is_calm: bool,
    pub(super) reports: Reports,
    pub(super) grants: u64,
    pub(super) commits: u64,
    pub(super) losses: u64,
}

/// A name and how it is held or requested.
pub(super) type NameAndMode<'a> = (&'a LockName, Mode);

pub(super) fn refuses(asked: NameAndMode<'_>, held: NameAndMode<'_>) -> bool {
    refuses_by(ConflictMatrix::platform(), asked, held)
}

pub(super) fn refuses_by(
    matrix: ConflictMatrix,
    asked: NameAndMode<'_>,
    held: NameAndMode<'_>,
) -> bool {
    let together = asked.1 == Mode::Shared && held.1 == Mode::Shared;
    if asked.0 == held.0 {
        !together
    } else {
        matrix.refuses(asked.0.as_str(), held.0.as_str())
    }
}

/// A limit on the requested names that these names exceed.
pub(super) fn exceeded<'a>(
    matrix: ConflictMatrix,
    requested: &[LockName],
    names: impl Iterator<Item = &'a LockName>,
) -> Option<&'static str> {
    let names: BTreeSet<_> = names.map(LockName::as_str).collect();
    let is_exceeded = |(pattern, most): &&(&str, u32)| {
        let fits = |name: &str| match pattern.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => name == *pattern,
        };
        let counted = names.iter().filter(|name| fits(name)).count();
        requested.iter().any(|name| fits(name.as_str())) && counted > *most as usize
    };
    let exceeded = matrix.limit_rules().iter().find(is_exceeded);
    exceeded.map(|(pattern, _)| *pattern)
}

/// The table of a row; an empty one if there is none.
pub(super) fn table_of(row: Option<&LocksRow>) -> LockTable {
    row.and_then(parse).unwrap_or_default()
}

impl World {
    // Sessions.

    /// A statement ends sessions whether they are alive or not.
    pub(super) fn note_forced(&mut self, p: ProcessId, statement: &Statement) {
        let ids = match statement {
            Statement::DeleteHeartbeat(_, OnlyIf::HeartbeatIs(_)) => return,
            Statement::DeleteHeartbeat(id, _) => std::slice::from_ref(id),
            Statement::DeleteHeartbeats(ids) | Statement::DeleteFences(ids) => ids,
            _ => return,
        };
        for id in ids {
            let owner = self.checks.session_owners.get(id).copied();
            if owner.map(|(owner, _)| owner) != Some(p) || self.is_leased(id) {
                self.checks.forced.insert(id.clone());
            }
        }
    }

    fn is_leased(&self, id: &SessionId) -> bool {
        let mut processes = self.processes.iter();
        processes.any(|process| process.is_alive() && process.has_lease(id, self.now))
    }

    /// A session of a living process is evicted only when its lease has ended.
    pub(super) fn check_eviction(&mut self, p: ProcessId, id: &SessionId, reason: EvictReason) {
        let Some((owner, incarnation)) = self.checks.session_owners.get(id).copied() else {
            return;
        };
        let process = &self.processes[owner];
        let is_alive = process.incarnation == incarnation && process.is_alive();
        if reason == EvictReason::ProcessExited && is_alive {
            let text = format!("{} took {} for dead", process_name(p), process_name(owner));
            self.fail("only-ended-processes-are-gone", text);
        }
    }

    // Callers.

    /// Whether a caller may rely on its grant, as far as it can know.
    pub(super) fn relies(&self, caller: &Caller) -> bool {
        let process = &self.processes[caller.process];
        let Some(grant) = caller.grant.as_ref().filter(|_| caller.holds()) else {
            return false;
        };
        process.has_lease(&grant.session, self.now)
            && !matches!(process.state, State::Dead | State::Ended)
            && !caller.is_over(self.clocks(caller.process).boot)
            && !self.checks.forced.contains(&grant.session)
            && !self.checks.taken.contains(&grant.nonce)
    }

    /// No two callers rely on grants that conflict.
    pub(super) fn check_exclusion(&mut self) {
        let holders = self.callers.values().filter(|caller| self.relies(caller));
        let holders: Vec<_> = holders.collect();
        let token = |caller: &Caller| caller.grant.as_ref().map(|grant| grant.token);
        for (index, a) in holders.iter().enumerate() {
            for b in &holders[index + 1..] {
                if a.namespace != b.namespace {
                    continue;
                }
                let (first, second) = if token(a) <= token(b) { (a, b) } else { (b, a) };
                let matrix = self.setup.matrix_of(first.process);
                if matrix.fingerprint() == ConflictMatrix::exclusive().fingerprint() {
                    // The row is judged by it.
                    continue;
                }
                let conflict = first.names.with_modes().find_map(|held| {
                    let conflicts = |asked: &NameAndMode<'_>| {
                        let together = token(first) == token(second);
                        refuses(*asked, held) && (!together || refuses(held, *asked))
                    };
                    second.names.with_modes().find(conflicts)
                });
                if let Some((name, _)) = conflict {
                    let (first, second) = (first.number, second.number);
                    let text = format!("grants {first} and {second} conflict on {name}");
                    return self.fail("exclusion", text);
                }
            }
        }
    }

    /// No more names are held than a limit allows.
    pub(super) fn check_limits(&mut self) {
        let holders = self.callers.values().filter(|caller| self.relies(caller));
        for holder in holders.clone() {
            let with_it = holders.clone().filter(|c| c.namespace == holder.namespace);
            let names = with_it.flat_map(|caller| caller.names.iter());
            let matrix = self.setup.matrix_of(holder.process);
            if let Some(pattern) = exceeded(matrix, &holder.names, names) {
                return self.fail("limits", format!("{pattern} is exceeded"));
            }
        }
    }

    /// A grant whose time is over is lost at once.
    pub(super) fn check_max_hold(&mut self) {
        let overdue = self.callers.values().find(|caller| {
            let process = &self.processes[caller.process];
            let boot = self.clocks(caller.process).boot;
            let late = Time::new(boot.since_start().saturating_sub(LATE));
            // No timer goes on while the machine sleeps.
            let awake = process.is_running() && process.slept == caller.slept;
            awake && caller.holds() && !caller.detached && caller.is_over(late)
        });
        if let Some(overdue) = overdue {
            let text = format!("grant {} is held for longer than its limit", overdue.number);
            self.fail("grants-end-in-time", text);
        }
    }

    /// Every grant that a caller relies on is in the row.
    pub(super) fn check_grants_stand(&mut self) {
        let lost = self.callers.values().find(|caller| {
            let table = table_of(self.db.tables.locks.get(&caller.namespace));
            let grant = caller.grant.as_ref();
            let id = grant.map(|grant| (grant.session.clone(), grant.nonce));
            let stands = id.is_some_and(|id| table.granted(&id, &caller.names).is_some());
            let process = &self.processes[caller.process];
            let session = grant.map(|grant| &grant.session);
            let leased = session.is_some_and(|id| process.has_lease(id, self.now));
            let over = caller.is_over(self.clocks(caller.process).boot);
            caller.holds() && process.is_alive() && leased && !over && !stands
        });
        if let Some(lost) = lost {
            let text = format!("grant {} is not in the row", lost.number);
            self.fail("a-loss-is-told", text);
        }
    }

    /// What a caller is told was written, with this token.
    pub(super) fn check_grant(&mut self, number: RequestNumber) {
        let caller = &self.callers[&number];
        let grant = caller.grant.as_ref().expect("it was granted");
        for name in &*caller.names {
            let mut granted = self.checks.granted.iter();
            let is_it = |granted: &GrantedName| {
                granted.nonce == caller.nonce
                    && granted.name == *name
                    && granted.token == grant.token
            };
            if !granted.any(is_it) {
                let text = format!("grant {number} of {name} was never in the row");
                return self.fail("grants-are-in-the-row", text);
            }
        }
    }

    /// A refusal rests on a row that was read after the request came.
    pub(super) fn check_refusal(&mut self, number: RequestNumber, error: &LockError) {
        let caller = &self.callers[&number];
        let waited = self.clocks(caller.process).monotonic - caller.since;
        let fault = match error {
            LockError::Busy { .. }
                if !caller.saw_conflict
                    && !self.setup.engine.lags
                    && !self.setup.mixed_matrices
                    && !self.instant.is_zero() =>
            {
                Some("nothing has blocked it since it came")
            }
            LockError::Timeout { .. } => match caller.patience {
                Patience::Millis(millis) if waited.as_millis() < u128::from(millis) => {
                    Some("its time was not over")
                }
                Patience::Millis(_) => None,
                _ => Some("it has no time-out"),
            },
            LockError::InvalidConfig { .. } => {
                let matrix = self.setup.matrix_of(caller.process);
                let names = caller.names.iter();
                let is_exceeded = exceeded(matrix, &caller.names, names).is_some();
                (!is_exceeded).then_some("no limit is exceeded")
            }
            LockError::Rejected { .. } => {
                let mut names = caller.names.iter();
                let is_at_fault = names.any(|name| name.as_str() == UNSTORABLE)
                    || caller.task.ends_with(UNSTORABLE_TASK);
                (!is_at_fault).then_some("the database can store its names and its task")
            }
            _ => None,
        };
        if let Some(fault) = fault {
            self.fail(
                "refusals-are-justified",
                format!("request {number}: {fault}"),
            );
        }
    }

    /// A grant is lost only if something took it.
    pub(super) fn check_loss(&mut self, number: RequestNumber, loss: &Loss) {
        self.checks.losses += 1;
        let caller = &self.callers[&number];
        let Some(grant) = &caller.grant else { return };
        let rows = &self.db.tables;
        let table = table_of(rows.locks.get(&caller.namespace));
        let id = (grant.session.clone(), grant.nonce);
        let stands = caller.names.iter().all(|name| {
            let names = std::slice::from_ref(name);
            table.granted(&id, names).is_some()
        });
        let process = &self.processes[caller.process];
        // A restore undoes the grant of one lock, and the session ends for the others as well.
        let goes_along = self.checks.restored && loss.reason.contains("lock of the session");
        let is_intact = stands
            && !goes_along
            && rows.heartbeats.contains_key(&grant.session)
            && process.has_lease(&grant.session, self.now)
            && !self.checks.forced.contains(&grant.session)
            && !self.checks.taken.contains(&grant.nonce)
            && !process.closing
            && !caller.is_over(self.clocks(caller.process).boot)
            && !self.setup.engine.lags
            && !caller.detached;
        if is_intact {
            let text = format!("grant {number} was lost without a cause: {}", loss.reason);
            self.fail("losses-have-a-cause", text);
        }
    }

    /// A release that is done has left nothing in the row.
    pub(super) fn check_release(&mut self, number: RequestNumber) {
        self.checks.released.push(number);
        let caller = &self.callers[&number];
        let table = table_of(self.db.tables.locks.get(&caller.namespace));
        let names = grants(&table);
        let left = names.keys().find(|(_, nonce)| *nonce == caller.nonce);
        if let Some((name, _)) = left
            && !self.checks.restored
            && !caller.detached
        {
            let text = format!("grant {number} was released, and {name} is in the row");
            self.fail("released-is-not-in-the-row", text);
        }
    }

    /// A fenced transaction commits before the next conflicting grant, or not at all.
    pub(super) fn check_commit(&mut self, number: RequestNumber) {
        self.checks.commits += 1;
        let Some(caller) = self.callers.get(&number) else {
            return;
        };
        let matrix = self.setup.matrix_of(caller.process);
        let granted = &self.checks.granted;
        // It may have been granted before without an answer, under a session that was lost.
        let token = caller.grant.as_ref().map(|grant| grant.token);
        let own = granted.iter().position(|granted| {
            granted.nonce == caller.nonce && token.is_none_or(|token| token == granted.token)
        });
        let later = &granted[own.map_or(0, |own| own + 1)..];
        let next = later.iter().find(|later| {
            later.nonce != caller.nonce
                && later.namespace == caller.namespace
                && caller.names.with_modes().any(|held| {
                    // Of one write, the order is not known.
                    let together = own.is_some_and(|own| granted[own].token == later.token);
                    let later = (&later.name, later.mode);
                    refuses_by(matrix, later, held)
                        && (!together || refuses_by(matrix, held, later))
                })
        });
        if let Some(next) = next {
            let text = format!(
                "grant {number} committed after {} was granted again",
                next.name
            );
            self.fail("no-commit-after-the-next-grant", text);
        }
    }

    pub(super) fn check_end(&mut self, error: Option<LockError>) {
        if let Some(error) = error
            && self.checks.must_end_well
        {
            self.fail("a-process-ends-well", error.to_string());
        }
    }

    // Cost.

    /// A process to which nothing happens asks the database seldom.
    pub(super) fn check_query_rate(&mut self, p: ProcessId) {
        let now = self.now;
        let queries = &mut self.processes[p].queries;
        while queries
            .front()
            .is_some_and(|at| now > *at + Duration::from_secs(1))
        {
            queries.pop_front();
        }
        let cheap = self.setup.engine.one_writer;
        let most = if cheap {
            3 * MOST_QUERIES
        } else {
            MOST_QUERIES
        };
        if queries.len() > most && self.checks.is_calm {
            let text = format!(
                "{} sent {} queries in a second",
                process_name(p),
                queries.len()
            );
            self.fail("no-busy-loop", text);
        }
    }
}
