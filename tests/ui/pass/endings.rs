//! Bodies that end only with `return`, that never end, or that are recursive.
#![deny(warnings)]
#![deny(unreachable_code)]

use std::convert::Infallible;

use locks_core::{LockError, with_lock};

#[with_lock("app_<id>")]
async fn by_return(id: u32) -> Result<Box<dyn Send>, LockError> {
    return Ok(Box::new(id));
}

#[with_lock("app_<id>")]
async fn by_returns(id: u32) -> Result<u32, LockError> {
    loop {
        if id > 3 {
            return Ok(1);
        }
        tokio::task::yield_now().await;
    }
}

#[with_lock("app")]
async fn never() -> Result<Infallible, LockError> {
    loop {
        tokio::task::yield_now().await;
    }
}

#[with_lock("app")]
async fn panics() -> Result<u8, LockError> {
    panic!("always")
}

#[with_lock("app")]
fn sync_by_return() -> Result<Box<dyn Send>, LockError> {
    return Ok(Box::new(1));
}

#[with_lock("app")]
fn sync_panics() -> Result<u8, LockError> {
    todo!()
}

#[with_lock("app")]
fn sync_never() -> Result<Infallible, LockError> {
    loop {}
}

#[with_lock("app_<depth>")]
async fn recursive(depth: u32) -> Result<u32, LockError> {
    if depth == 0 {
        return Ok(0);
    }
    Ok(1 + Box::pin(recursive(depth - 1)).await?)
}

#[with_lock("app_<depth>")]
fn sync_recursive(depth: u32) -> Result<u32, LockError> {
    if depth == 0 {
        Ok(0)
    } else {
        sync_recursive(depth - 1)
    }
}

#[with_lock("app")]
async fn only_question_marks() -> Result<u32, LockError> {
    Err(LockError::NotInstalled)?
}

#[test]
fn compiles() {
    let _ = (
        by_return(1),
        by_returns(1),
        never(),
        panics(),
        recursive(1),
        only_question_marks(),
    );
    let _ = (sync_by_return, sync_panics, sync_never, sync_recursive);
}
