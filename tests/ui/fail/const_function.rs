use locks_core::{LockError, with_lock};

#[with_lock("box_update")]
const fn update() -> Result<(), LockError> {
    Ok(())
}

fn main() {
    let _ = update();
}
