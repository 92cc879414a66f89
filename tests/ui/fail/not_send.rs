use std::rc::Rc;

use locks_core::{LockError, with_lock};

#[with_lock("app_<app_id>")]
async fn install(app_id: Rc<str>) -> Result<(), LockError> {
    tokio::task::yield_now().await;
    drop(app_id);
    Ok(())
}

fn is_send<T: Send>(_: T) {}

fn main() {
    is_send(install("x".into()));
}
