//! Every option by itself, and all options together.
#![deny(warnings)]

use std::sync::Arc;

use locks_core::{ConflictMatrix, LockError, LockManager, with_lock};

mod matrices {
    pub const APPS: super::ConflictMatrix =
        super::ConflictMatrix::new(&[("box_update", &["app_task_*"]), ("mail_restart", &[])]);
}

struct Rules;

impl Rules {
    const ALL: ConflictMatrix = ConflictMatrix::new(&[("*", &[])]);
}

enum TaskError {
    Lock(LockError),
    Wrapped(Arc<LockError>),
}

fn wrap(error: LockError) -> TaskError {
    TaskError::Wrapped(Arc::new(error))
}

#[with_lock("app", wait)]
async fn waits() -> Result<(), LockError> {
    Ok(())
}

#[with_lock("app", wait = "1h 30m 500ms")]
async fn waits_with_timeout() -> Result<(), LockError> {
    Ok(())
}

#[with_lock("app", max_hold = "10m")]
async fn holds_briefly() -> Result<(), LockError> {
    Ok(())
}

#[with_lock(shared("host"), "app_<id>", shared("platform", "group_<id>",))]
async fn shares(id: u32) -> Result<u32, LockError> {
    Ok(id)
}

#[with_lock(shared("app_task_<id>"), matrix = matrices::APPS, max_hold = "1s")]
fn only_shares(id: u32) -> Result<u32, LockError> {
    Ok(id)
}

#[with_lock("app", acquire)]
async fn acquires() -> Result<(), LockError> {
    Ok(())
}

#[with_lock(acquire, "app_<id>", busy = { let _ = id; return Ok(id + "!") })]
async fn skips(id: String) -> Result<String, LockError> {
    Ok(id)
}

#[with_lock("app", locks = locks)]
async fn by_reference(locks: &LockManager) -> Result<(), LockError> {
    Ok(())
}

#[with_lock("app", locks = locks)]
async fn by_arc(locks: Arc<LockManager>) -> Result<(), LockError> {
    Ok(())
}

#[with_lock("app", locks = LockManager::current()?)]
async fn by_expression() -> Result<(), LockError> {
    Ok(())
}

#[with_lock("app", locks = locks().await)]
async fn by_awaiting() -> Result<(), LockError> {
    Ok(())
}

async fn locks() -> LockManager {
    LockManager::current().unwrap()
}

#[with_lock("app", guard = r#type, on_lost = "cancel")]
async fn guarded() -> Result<i64, LockError> {
    Ok(r#type.token())
}

#[with_lock("app", guard = guard, on_lost = "continue")]
fn sync_guarded() -> Result<i64, LockError> {
    Ok(guard.token())
}

#[with_lock("app_task_<id>", "mail_restart", matrix = matrices::APPS)]
async fn checked(id: u8) -> Result<(), LockError> {
    Ok(())
}

#[with_lock("<id>", matrix = Rules::ALL)]
fn sync_checked<T: std::fmt::Display>(id: T) -> Result<(), LockError> {
    Ok(())
}

#[with_lock("app", map_err = TaskError::Lock)]
async fn mapped_by_variant() -> Result<(), TaskError> {
    Ok(())
}

#[with_lock("app", map_err = wrap)]
fn mapped_by_function() -> Result<impl Send, TaskError> {
    Ok(1)
}

#[with_lock(
    "app_task_<id>",
    "box_update",
    wait = "30s",
    busy = Ok(false),
    locks = locks,
    guard = guard,
    on_lost = "continue",
    matrix = matrices::APPS,
    map_err = TaskError::Lock,
    crate = locks_core
)]
async fn all(id: u8, locks: &LockManager) -> Result<bool, TaskError> {
    Ok(guard.token() == 1)
}

#[allow(clippy::large_futures)]
#[test]
fn compiles() {
    let _ = (
        waits(),
        waits_with_timeout(),
        acquires(),
        skips(String::new()),
        by_reference,
        by_arc,
    );
    let _ = (
        by_expression(),
        by_awaiting(),
        guarded(),
        sync_guarded,
        checked(1),
        sync_checked::<u8>,
    );
    let _ = (mapped_by_variant(), all);
    let _ = (holds_briefly(), shares(1), only_shares);
    if false {
        let _ = mapped_by_function();
    }
    let _ = |error: TaskError| match error {
        TaskError::Lock(error) => error.is_busy(),
        TaskError::Wrapped(error) => error.is_busy(),
    };
}
