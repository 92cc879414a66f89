use locks_core::{LockError, with_lock};

#[with_lock("app", guard = guard)]
async fn release() -> Result<(), LockError> {
    guard.release().await
}

fn main() {}
