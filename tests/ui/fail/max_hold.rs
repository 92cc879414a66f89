use locks_core::{LockError, with_lock};

#[with_lock("a", max_hold = "0s")]
async fn zero() -> Result<(), LockError> {
    Ok(())
}

#[with_lock("a", max_hold = 10)]
async fn number() -> Result<(), LockError> {
    Ok(())
}

#[with_lock("a", max_hold)]
async fn without_value() -> Result<(), LockError> {
    Ok(())
}

#[with_lock("a", max_hold = "10 minuets")]
async fn misspelt() -> Result<(), LockError> {
    Ok(())
}

fn main() {}
