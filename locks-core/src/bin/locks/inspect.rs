//! `locks list` and `locks waiting`.

use crate::{
    arguments::{Database, Output},
    exit::Outcome,
    report::{self, HeldLock, WaitingRequest},
};

pub(crate) async fn list(database: &Database, output: Output) -> Outcome {
    let locks = database.connect().await?;
    let held = locks.held().await?;
    if held.is_empty() {
        eprintln!(
            "locks: nothing is held in the namespace {}",
            locks.namespace()
        );
    }
    report::print(&if output.json {
        let held: Vec<_> = held.iter().map(HeldLock::from).collect();
        serde_json::to_string_pretty(&held)?
    } else {
        report::holders(&held)
    })?;
    Ok(0)
}

pub(crate) async fn waiting(database: &Database, output: Output) -> Outcome {
    let waiting = database.connect().await?.waiting().await?;
    report::print(&if output.json {
        let waiting: Vec<_> = waiting.iter().map(WaitingRequest::from).collect();
        serde_json::to_string_pretty(&waiting)?
    } else {
        report::waiters(&waiting)
    })?;
    Ok(0)
}
