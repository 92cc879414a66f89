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
    let Release { name, token } = release;
    let Some(holder) = held.iter().find(|holder| holder.name.as_str() == name) else {
        eprintln!("locks: {name} is not held");
        return Ok(NOT_HELD);
    };
    if holder.token != Some(*token) {
        match holder.token {
            Some(other) => eprintln!("locks: {holder} with token {other}, not {token}"),
            None => eprintln!(
                "locks: {holder}, which is of the original platform; release it with \
                 `locks release-task`"
            ),
        }
        return Ok(NOT_HELD);
    }
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

fn print_released(holder: &Holder) -> std::io::Result<()> {
    let Holder { name, task_id, .. } = holder;
    let token = holder
        .token
        .map_or_else(String::new, |token| format!(", token {token}"));
    report::print(&format!("released {name} of task {task_id}{token}"))
}
