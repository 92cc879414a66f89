//! `locks release` and `locks release-task`.

use locks_core::{Holder, LockError};

use crate::{
    arguments::{Database, Release},
    exit::{NOT_HELD, Outcome},
    report,
};

pub(crate) async fn release(database: &Database, release: &Release) -> Outcome {
    let locks = database.connect().await?;
    let held = locks.held().await?;
    let Release { name, token, .. } = release;
    let (matching, others): (Vec<_>, Vec<_>) = held
        .iter()
        .filter(|holder| holder.name.as_str() == name)
        .partition(|holder| release.is_for(holder));
    let holder = match matching[..] {
        [holder] => holder,
        [] if others.is_empty() => {
            let namespace = locks.namespace();
            eprintln!("locks: {name} is not held in the namespace {namespace}");
            return Ok(NOT_HELD);
        }
        [] => {
            for other in others {
                report_other(other);
            }
            return Ok(NOT_HELD);
        }
        _ => {
            let text = "several tasks share it with this token: pass --session, which `locks list \
                        --json` prints";
            return Err(format!("{name}: {text}").into());
        }
    };
    match locks.release_holder(holder).await {
        Ok(()) => {}
        Err(LockError::NotHeld { .. }) => {
            eprintln!("locks: {name} is not held with token {token} any more");
            return Ok(NOT_HELD);
        }
        Err(error) => return Err(error.into()),
    }
    let along = |other: &&Holder| other.session == holder.session;
    for released in held.iter().filter(along) {
        print_released(released)?;
    }
    Ok(0)
}

pub(crate) async fn release_task(database: &Database, id: &str) -> Outcome {
    let locks = database.connect().await?;
    for released in &locks.release_task(id).await? {
        print_released(released)?;
    }
    Ok(0)
}

/// Tells which grant holds the lock instead.
fn report_other(holder: &Holder) {
    match holder.token {
        Some(token) => eprintln!("locks: {holder}, with token {token}"),
        None => eprintln!(
            "locks: {holder}, which is of the original platform; release it with `locks \
             release-task`"
        ),
    }
}

impl Release {
    /// Whether this is the grant to release.
    fn is_for(&self, holder: &Holder) -> bool {
        let session = self.session.as_deref();
        holder.token == Some(self.token)
            && session.is_none_or(|session| holder.session.as_deref() == Some(session))
    }
}

fn print_released(holder: &Holder) -> std::io::Result<()> {
    let Holder { name, task_id, .. } = holder;
    let token = holder
        .token
        .map_or_else(String::new, |token| format!(", token {token}"));
    report::print(&format!("released {name} of task {task_id}{token}"))
}
