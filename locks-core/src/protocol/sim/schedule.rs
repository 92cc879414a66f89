//! A schedule: what happens, step by step, in words.

use std::fmt;

use super::process::LaneKind;
use crate::store::Class;

/// The number of a process, from 0.
pub(super) type ProcessId = usize;
/// The number of a request, and of what it was granted.
pub(super) type RequestNumber = u32;

/// How a request waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Patience {
    NoWait,
    Forever,
    Millis(u32),
}

/// A request for locks.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Ask {
    pub(super) process: ProcessId,
    pub(super) number: RequestNumber,
    pub(super) namespace: usize,
    pub(super) task: char,
    pub(super) names: Vec<&'static str>,
    /// Those that are shared.
    pub(super) shared: Vec<&'static str>,
    /// How long the locks may be held, in milliseconds.
    pub(super) max_hold: Option<u32>,
    pub(super) patience: Patience,
    /// The scope: none, a new one, or one inside that of another request.
    pub(super) scope: Scope,
}

/// The scope of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Scope {
    None,
    Outermost,
    Inside(RequestNumber),
}

/// One step. A step that is not possible is left out.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Step {
    // Messages.
    /// The preconditions of a compare-and-set are read.
    Begin(ProcessId, LaneKind),
    Apply(ProcessId, LaneKind),
    ApplyStale(ProcessId, LaneKind),
    /// The answer arrives; if the statement was not applied, it is applied before.
    Answer(ProcessId, LaneKind),
    /// The connection breaks. A statement that was not applied may be applied later.
    Lose(ProcessId, LaneKind),
    Fail(ProcessId, LaneKind, ClassName),
    /// A statement of a broken connection is applied.
    ApplyLate(usize),
    Notify(ProcessId),
    LoseNotification(ProcessId),
    // Time.
    NextTimer,
    Millis(u32),
    SetWallClock(ProcessId, i32),
    // Callers.
    Ask(Ask),
    Cancel(RequestNumber),
    Release(RequestNumber),
    Drop(RequestNumber),
    Detach(RequestNumber),
    ReleaseByName(RequestNumber),
    Held(ProcessId, usize),
    Waiting(ProcessId, usize),
    RemoveTask(ProcessId, usize, ProcessId, char),
    RemoveAll(ProcessId, usize),
    RemoveGrant(ProcessId, usize, &'static str),
    OwnerGone(ProcessId, char),
    Close(ProcessId),
    HandlesGone(ProcessId),
    // Transactions, by the number of the grant that fences them.
    Fence(RequestNumber),
    Commit(RequestNumber),
    RollBack(RequestNumber),
    /// The caller is gone; the commit is under way.
    AbandonCommit(RequestNumber),
    /// A commit under way arrives.
    ArriveCommit(RequestNumber),
    // Processes.
    Pause(ProcessId),
    Sleep(ProcessId),
    Resume(ProcessId),
    Kill(ProcessId),
    Start(ProcessId),
    CutOff(ProcessId),
    Reconnect(ProcessId),
    RefuseConnections(ProcessId),
    AcceptConnections(ProcessId),
    // The original.
    OriginalReads(usize),
    OriginalTakes(usize, &'static str),
    OriginalReleases(usize, &'static str),
    OriginalReleasesTask(usize, ProcessId, char),
    OriginalDeletes(usize),
    OriginalInserts(usize),
    // The operator.
    Backup,
    Restore,
    /// The machine loses power, and at most so many commits are undone. Then the processes that
    /// ran are started again.
    LosePower(u8),
}

/// The class of a failure. [`Class`] cannot be hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum ClassName {
    NotApplied,
    ReadOnly,
    Indeterminate,
    Permanent,
}

impl From<ClassName> for Class {
    fn from(name: ClassName) -> Self {
        match name {
            ClassName::NotApplied => Self::NotApplied,
            ClassName::ReadOnly => Self::ReadOnly,
            ClassName::Indeterminate => Self::Indeterminate,
            ClassName::Permanent => Self::Permanent,
        }
    }
}

/// The name of a process in a schedule.
pub(super) fn process_name(number: ProcessId) -> String {
    format!("p{}", number + 1)
}

/// The task ids of a process.
pub(super) fn task_id(process: ProcessId, task: char) -> String {
    format!("{}{task}", process_name(process))
}

/// The name of a namespace.
pub(super) fn namespace_name(number: usize) -> String {
    format!("n{}", number + 1)
}

impl fmt::Display for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            process,
            number,
            namespace,
            task,
            names,
            shared,
            ..
        } = self;
        let mode = |name: &&str| {
            if shared.contains(name) {
                format!("{name} (shared)")
            } else {
                (*name).to_owned()
            }
        };
        let names: Vec<_> = names.iter().map(mode).collect();
        let (task, names) = (task_id(*process, *task), names.join(" and "));
        let space = namespace_name(*namespace);
        write!(
            f,
            "{task} requests {names} in {space} as request {number}, "
        )?;
        match self.patience {
            Patience::NoWait => f.write_str("without waiting")?,
            Patience::Forever => f.write_str("and waits")?,
            Patience::Millis(millis) => write!(f, "and waits for {millis} ms")?,
        }
        if let Some(millis) = self.max_hold {
            write!(f, ", to hold them for {millis} ms at most")?;
        }
        match self.scope {
            Scope::None => Ok(()),
            Scope::Outermost => f.write_str(", in a scope"),
            Scope::Inside(outer) => write!(f, ", in a scope inside that of request {outer}"),
        }
    }
}

impl fmt::Display for Step {
    #[allow(
        clippy::too_many_lines,
        clippy::many_single_char_names,
        reason = "one arm for each step"
    )]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let p = |number: &ProcessId| process_name(*number);
        let n = |number: &usize| namespace_name(*number);
        match self {
            Self::Begin(q, lane) => write!(f, "the {lane} query of {} begins", p(q)),
            Self::Apply(q, lane) => write!(f, "the {lane} query of {} is applied", p(q)),
            Self::ApplyStale(q, lane) => {
                write!(f, "the {lane} query of {} reads an earlier state", p(q))
            }
            Self::Answer(q, lane) => write!(f, "the {lane} query of {} is answered", p(q)),
            Self::Lose(q, lane) => write!(f, "the {lane} connection of {} breaks", p(q)),
            Self::Fail(q, lane, class) => {
                write!(f, "the {lane} query of {} fails: {class:?}", p(q))
            }
            Self::ApplyLate(index) => {
                write!(
                    f,
                    "statement {index} of a broken connection is applied late"
                )
            }
            Self::Notify(q) => write!(f, "a notification arrives at {}", p(q)),
            Self::LoseNotification(q) => write!(f, "a notification to {} is lost", p(q)),
            Self::NextTimer => f.write_str("time passes until the next timer"),
            Self::Millis(millis) => write!(f, "{millis} ms pass"),
            Self::SetWallClock(q, secs) => {
                write!(f, "the wall clock of {} is set {secs} s ahead", p(q))
            }
            Self::Ask(ask) => ask.fmt(f),
            Self::Cancel(r) => write!(f, "the caller of request {r} is gone"),
            Self::Release(r) => write!(f, "grant {r} is released"),
            Self::Drop(r) => write!(f, "the guard of grant {r} is dropped"),
            Self::Detach(r) => write!(f, "grant {r} is detached"),
            Self::ReleaseByName(r) => write!(f, "detached grant {r} is released by name"),
            Self::Held(q, s) => write!(f, "{} asks what is held in {}", p(q), n(s)),
            Self::Waiting(q, s) => write!(f, "{} asks what waits in {}", p(q), n(s)),
            Self::RemoveTask(q, s, of, task) => {
                let task = task_id(*of, *task);
                write!(f, "{} removes the locks of task {task} in {}", p(q), n(s))
            }
            Self::RemoveGrant(q, s, name) => {
                write!(f, "{} takes {name} in {} from its holder", p(q), n(s))
            }
            Self::RemoveAll(q, s) => write!(f, "{} removes all locks in {}", p(q), n(s)),
            Self::OwnerGone(q, task) => {
                write!(f, "no handle acts for task {} any more", task_id(*q, *task))
            }
            Self::Close(q) => write!(f, "{} closes its manager", p(q)),
            Self::HandlesGone(q) => write!(f, "{} drops its last handle", p(q)),
            Self::Fence(r) => write!(f, "a transaction is fenced with grant {r}"),
            Self::Commit(r) => write!(f, "the transaction of grant {r} is committed"),
            Self::RollBack(r) => write!(f, "the transaction of grant {r} is rolled back"),
            Self::AbandonCommit(r) => {
                write!(
                    f,
                    "the transaction of grant {r} sends its commit and its caller is gone"
                )
            }
            Self::ArriveCommit(r) => write!(f, "the commit of grant {r} arrives"),
            Self::Pause(q) => write!(f, "{} is stopped", p(q)),
            Self::Sleep(q) => write!(f, "the machine of {} sleeps", p(q)),
            Self::Resume(q) => write!(f, "{} goes on", p(q)),
            Self::Kill(q) => write!(f, "{} is killed", p(q)),
            Self::Start(q) => write!(f, "{} is started again", p(q)),
            Self::CutOff(q) => write!(f, "{} is cut off from the database", p(q)),
            Self::Reconnect(q) => write!(f, "{} reaches the database again", p(q)),
            Self::RefuseConnections(q) => {
                write!(f, "the server refuses further connections of {}", p(q))
            }
            Self::AcceptConnections(q) => {
                write!(f, "the server accepts connections of {} again", p(q))
            }
            Self::OriginalReads(s) => write!(f, "the original reads the row of {}", n(s)),
            Self::OriginalTakes(s, name) => write!(f, "the original takes {name} in {}", n(s)),
            Self::OriginalReleases(s, name) => {
                write!(f, "the original releases {name} in {}", n(s))
            }
            Self::OriginalReleasesTask(s, of, task) => {
                let task = task_id(*of, *task);
                write!(
                    f,
                    "the original releases what task {task} holds in {}",
                    n(s)
                )
            }
            Self::OriginalDeletes(s) => write!(f, "the original deletes the row of {}", n(s)),
            Self::OriginalInserts(s) => write!(f, "the original inserts the row of {}", n(s)),
            Self::LosePower(undone) => {
                write!(
                    f,
                    "the machine loses power; up to {undone} commits are undone"
                )
            }
            Self::Backup => f.write_str("the database is backed up"),
            Self::Restore => f.write_str("the database is restored from the backup"),
        }
    }
}
