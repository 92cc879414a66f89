use locks_core::{LockError, with_lock};

#[with_lock("box_update", on_lost = "cancel")]
fn update() -> Result<(), LockError> {
    Ok(())
}

fn main() {}
