use locks_core::{LockError, with_lock};

#[with_lock("box_update", wait = "30 parsecs")]
async fn far() -> Result<(), LockError> {
    Ok(())
}

#[with_lock("box_update", wait = "30")]
async fn no_unit() -> Result<(), LockError> {
    Ok(())
}

#[with_lock("box_update", wait = "")]
async fn empty() -> Result<(), LockError> {
    Ok(())
}

#[with_lock("box_update", wait = "0s")]
async fn none() -> Result<(), LockError> {
    Ok(())
}

#[with_lock("box_update", wait = 30)]
async fn number() -> Result<(), LockError> {
    Ok(())
}

#[with_lock("box_update", wait("30s"))]
async fn parentheses() -> Result<(), LockError> {
    Ok(())
}

fn main() {}
