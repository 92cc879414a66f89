use locks_core::{LockError, with_lock};

struct App;

#[with_lock("app_task_<app>", "app_backup_<id>_<app_ids.name>")]
async fn install(app_id: &str, (force, _): (bool, u8)) -> Result<(), LockError> {
    Ok(())
}

impl App {
    #[with_lock("app_task_<id>")]
    async fn update(&self) -> Result<(), LockError> {
        Ok(())
    }

    #[with_lock("app_task_<self.id>")]
    async fn new() -> Result<Self, LockError> {
        Ok(Self)
    }
}

fn main() {}
