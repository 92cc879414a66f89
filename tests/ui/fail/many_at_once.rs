use locks_core::{LockError, with_lock};

#[with_lock("app_task_<app>", "app_<", wait = "soon", busy = Ok(()), color = 1, on_lost = "cancel")]
const fn install(app_id: &str) {}

#[with_lock("app_task_<app>", busy = Ok(()), on_lost = "cancel")]
const fn update(app_id: &str) {}

fn main() {
    // The functions exist in spite of the mistakes.
    install("x");
    update("x");
    let _: LockError;
}
