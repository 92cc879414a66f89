use locks_core::{ConflictMatrix, LockError, with_lock};

pub const MATRIX: ConflictMatrix = ConflictMatrix::new(&[("box_update", &["app_task_*"])]);

#[with_lock("app_taks_<id>", "box_update", matrix = MATRIX)]
async fn misspelt<T: std::fmt::Display>(id: T) -> Result<(), LockError> {
    Ok(())
}

#[with_lock("app_<x>", matrix = crate::MATRIX)]
fn too_short(x: u8) -> Result<(), LockError> {
    Ok(())
}

fn main() {}
