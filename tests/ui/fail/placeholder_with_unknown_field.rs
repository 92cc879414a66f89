use locks_core::{LockError, with_lock};

struct App {
    id: u8,
}

#[with_lock("app_<app.ids>")]
async fn install(app: App) -> Result<u8, LockError> {
    Ok(app.id)
}

fn main() {}
