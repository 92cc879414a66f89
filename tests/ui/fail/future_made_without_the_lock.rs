use std::{future::Future, pin::Pin};

use locks_core::{LockError, with_lock};

type Made = Pin<Box<dyn Future<Output = Result<(), LockError>>>>;

async fn work() -> Result<(), LockError> {
    Ok(())
}

#[with_lock("box_update")]
fn elsewhere() -> Pin<Box<dyn Future<Output = Result<(), LockError>>>> {
    Box::pin(work())
}

#[with_lock("box_update")]
fn before() -> Made {
    println!("updating");
    Box::pin(async move { work().await })
}

fn main() {}
