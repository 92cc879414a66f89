use locks_core::{LockError, with_lock};

struct App {
    id: Id,
}

struct Id;

#[with_lock("app_<app.id>")]
async fn install(app: &App) -> Result<(), LockError> {
    Ok(())
}

#[with_lock("app_<id>")]
fn generic<T>(id: T) -> Result<(), LockError> {
    Ok(())
}

fn main() {}
