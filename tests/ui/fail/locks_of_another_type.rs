use locks_core::{LockError, with_lock};

#[with_lock("box_update", locks = locks.0)]
async fn update(locks: (String,)) -> Result<(), LockError> {
    Ok(())
}

fn main() {}
