use locks_core::{LockError, with_lock, with_lock as and_lock};

#[with_lock("box_update")]
#[with_lock("mail_restart")]
async fn update() -> Result<(), LockError> {
    Ok(())
}

#[and_lock("box_update")]
#[inline]
#[with_lock("mail_restart")]
fn sync_update() -> Result<(), LockError> {
    Ok(())
}

fn main() {}
