use locks_core::{LockError, with_lock};

trait Updater {
    #[with_lock("box_update")]
    fn update(&self) -> Result<(), LockError>;
}

fn main() {}
