use std::fmt::Display;

use locks_core::with_lock;

struct TaskError;

type TaskResult<T> = Result<T, TaskError>;

#[with_lock("box_update")]
async fn update() -> Result<(), TaskError> {
    Ok(())
}

#[with_lock("box_update")]
fn sync_update() -> TaskResult<impl Display> {
    Ok(1)
}

fn main() {}
