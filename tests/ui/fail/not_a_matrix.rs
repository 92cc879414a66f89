use locks_core::{LockError, with_lock};

const MATRIX: &[&str] = &["box_update"];

struct Updater;

#[with_lock("box_update", matrix = MATRIX)]
async fn update() -> Result<(), LockError> {
    Ok(())
}

impl Updater {
    #[with_lock("box_update", matrix = Self::MATRIX)]
    async fn update(&self) -> Result<(), LockError> {
        Ok(())
    }
}

fn main() {}
