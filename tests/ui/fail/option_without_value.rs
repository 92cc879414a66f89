use locks_core::{LockError, with_lock};

#[with_lock("box_update", acquire, busy, locks, guard =, matrix, map_err, crate, on_lost)]
async fn update() -> Result<(), LockError> {
    Ok(())
}

fn main() {}
