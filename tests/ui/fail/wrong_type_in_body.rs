use locks_core::{LockError, with_lock};

#[with_lock("box_update")]
async fn last() -> Result<u8, LockError> {
    "update"
}

#[with_lock("box_update")]
async fn returned(early: bool) -> Result<u8, LockError> {
    if early {
        return Ok("update");
    }
    Ok(1)
}

#[with_lock("box_update")]
fn sync_last() -> Result<u8, LockError> {
    Ok(1);
}

#[with_lock("box_update")]
async fn missing() -> Result<u8, LockError> {}

#[with_lock("box_update")]
async fn inside() -> Result<u8, LockError> {
    let count: u8 = "update";
    Ok(count)
}

fn main() {}
