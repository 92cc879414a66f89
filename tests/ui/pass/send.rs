//! The future is `Send` if its body is. The values in the lock names need not be `Sync`.
#![deny(warnings)]

use std::{cell::Cell, fmt};

use locks_core::{LockError, LockManager, with_lock};

fn is_send<T: Send>(_: T) {}

/// Is `Send` and not `Sync`.
struct Id(Cell<u32>);

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.get().fmt(f)
    }
}

#[with_lock("app_<id>", wait = "1s", busy = Ok(id), guard = guard, locks = locks)]
async fn unshareable(id: Id, locks: &LockManager) -> Result<Id, LockError> {
    tokio::task::yield_now().await;
    let _ = (guard.token(), locks);
    Ok(id)
}

#[with_lock("app_<id>", on_lost = "continue")]
async fn generic<T: fmt::Display + Send>(id: T, (_, b): (Id, u8)) -> Result<T, LockError> {
    tokio::time::sleep(std::time::Duration::from_millis(u64::from(b))).await;
    Ok(id)
}

#[with_lock("app")]
async fn not_send() -> Result<(), LockError> {
    let local = std::rc::Rc::new(1);
    tokio::task::yield_now().await;
    drop(local);
    Ok(())
}

#[tokio::test]
async fn compiles() {
    let locks = LockManager::connect("sqlite::memory:").await.unwrap();
    is_send(unshareable(Id(Cell::new(1)), &locks));
    is_send(generic(String::new(), (Id(Cell::new(1)), 1)));
    let _ = not_send();
}
