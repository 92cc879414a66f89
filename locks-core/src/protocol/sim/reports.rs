//! What callers are told of the row: what is held, what waits, and whether it has changed.

use std::{collections::BTreeMap, sync::Arc};

use super::{properties::table_of, schedule::ProcessId, tables::RowChange, world::World};
use crate::{
    name::LockName,
    protocol::{Answer, CallId, Inspection, config::Name},
    report::{Holder, Waiter},
    store::{LocksRow, RowVersion},
    table::QueuedRequest,
};

/// The reports that callers have asked for, and the last row of each stream of changes.
#[derive(Debug, Default)]
pub(super) struct Reports {
    asked: BTreeMap<(ProcessId, CallId), Asked>,
    seen: BTreeMap<(ProcessId, Name), Option<RowVersion>>,
}

/// A report without answer.
#[derive(Debug)]
struct Asked {
    namespace: Name,
    /// The version that the caller knows.
    seen: Option<RowVersion>,
    /// The rows that there were since the call was made.
    rows: Vec<Option<LocksRow>>,
}

impl Reports {
    pub(super) fn on_row(&mut self, change: &RowChange) {
        let asked = self.asked.values_mut();
        for asked in asked.filter(|asked| asked.namespace == change.namespace) {
            asked.rows.push(change.after.clone());
        }
    }

    /// A stream asks for what is held and what waits, unless it is as it was seen last.
    pub(super) fn snapshot(&self, p: ProcessId, namespace: &Name) -> Inspection {
        let seen = self.seen.get(&(p, namespace.clone())).cloned();
        Inspection::Snapshot(seen.flatten())
    }
}

/// A holder without what the rows of sessions say.
fn holder(mut holder: Holder) -> Holder {
    (holder.host, holder.process) = (None, None);
    holder
}

fn held(holders: &[Holder]) -> Vec<Holder> {
    holders.iter().cloned().map(holder).collect()
}

type Position = (Vec<LockName>, Vec<LockName>, Arc<str>, Arc<str>);

fn waiting(waiters: &[Waiter]) -> Vec<Position> {
    let position = |w: &Waiter| {
        let (names, shared) = (w.names.clone(), w.shared.clone());
        (names, shared, w.task_id.clone(), w.session.clone())
    };
    waiters.iter().map(position).collect()
}

impl World {
    /// A caller asks for a report.
    pub(super) fn note_report(
        &mut self,
        p: ProcessId,
        call: CallId,
        namespace: &Name,
        what: &Inspection,
    ) {
        let seen = match what {
            Inspection::Held | Inspection::Waiting => None,
            Inspection::Snapshot(seen) => seen.clone(),
            Inspection::Confirm(..) | Inspection::ReleaseName(..) => return,
        };
        let asked = Asked {
            namespace: namespace.clone(),
            seen,
            rows: vec![self.db.tables.locks.get(namespace).cloned()],
        };
        self.checks.reports.asked.insert((p, call), asked);
    }

    /// A report is what the row was at some time since it was asked for.
    pub(super) fn check_report(&mut self, p: ProcessId, call: CallId, answer: &Answer) {
        let Some(asked) = self.checks.reports.asked.remove(&(p, call)) else {
            return;
        };
        let is_true = |row: &Option<LocksRow>| {
            let table = || table_of(row.as_ref());
            let is_held = |holders: &[Holder]| held(holders) == held(&table().holders());
            let waits = |waiters: &[Waiter]| {
                let queue: Vec<_> = table().queue().iter().map(QueuedRequest::report).collect();
                waiting(waiters) == waiting(&queue)
            };
            let version = row.as_ref().map(|row| &row.version);
            match answer {
                Answer::Holders(holders) => is_held(holders),
                Answer::Waiters(waiters) => waits(waiters),
                Answer::Snapshot(snapshot, of) => {
                    of.as_ref() == version && is_held(&snapshot.held) && waits(&snapshot.waiting)
                }
                Answer::Unchanged => version.is_some() && version == asked.seen.as_ref(),
                _ => true,
            }
        };
        // A node that lags shows what was so before.
        if !self.setup.engine.lags && !asked.rows.iter().any(is_true) {
            let text = format!("{answer:?} was never so: {:?}", asked.rows);
            self.fail("reports-are-true", text);
        }
        if let Answer::Snapshot(_, version) = answer {
            let seen = &mut self.checks.reports.seen;
            seen.insert((p, asked.namespace), version.clone());
        }
    }
}
