use locks_core::{LockError, with_lock};

#[with_lock(
    "box_update",
    guard = "guard",
    on_lost = cancel,
    matrix = [],
    map_err = |error| error,
    crate = "locks",
)]
async fn update() -> Result<(), LockError> {
    Ok(())
}

#[with_lock("box_update", on_lost = "abort", guard = some.guard)]
async fn update_again() -> Result<(), LockError> {
    Ok(())
}

fn main() {}
