use locks_core::{LockError, with_lock};

#[with_lock("box_update", acquire, busy = 0)]
async fn update() -> Result<(), LockError> {
    Ok(())
}

fn main() {}
